//! `--chmod`: octal, or symbolic as chmod(1) takes it (BuildKit 1.14 of the frontend on).

/// A change of mode bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModeChange {
    Set(u32),
    Clauses(Vec<Clause>),
}

/// One `who` with one operation of a symbolic mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Bits of user, group and others that it concerns, special bits included.
    who: u32,
    operation: char,
    read: bool,
    write: bool,
    execute: bool,
    /// `X`: only for directories and what somebody may execute.
    execute_some: bool,
    set_id: bool,
    sticky: bool,
    /// `u`, `g` or `o`: the bits that this class has.
    copied: Option<char>,
}

impl ModeChange {
    /// Reads a mode; `None` if it is none.
    pub(crate) fn parse(text: &str) -> Option<ModeChange> {
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)?;
            return Some(ModeChange::Set(mode));
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let operations = part.find(['+', '-', '='])?;
            let (who, mut rest) = part.split_at(operations);
            let mut bits = 0;
            for c in who.chars() {
                bits |= match c {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return None,
                };
            }
            if bits == 0 {
                bits = 0o7777;
            }
            while let Some(operation) = rest.chars().next() {
                rest = &rest[1..];
                let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
                let (permissions, next) = rest.split_at(end);
                rest = next;
                let mut clause = Clause {
                    who: bits,
                    operation,
                    read: false,
                    write: false,
                    execute: false,
                    execute_some: false,
                    set_id: false,
                    sticky: false,
                    copied: None,
                };
                for c in permissions.chars() {
                    match c {
                        'r' => clause.read = true,
                        'w' => clause.write = true,
                        'x' => clause.execute = true,
                        'X' => clause.execute_some = true,
                        's' => clause.set_id = true,
                        't' => clause.sticky = true,
                        'u' | 'g' | 'o' if permissions.len() == 1 => clause.copied = Some(c),
                        _ => return None,
                    }
                }
                clauses.push(clause);
            }
        }
        (!clauses.is_empty()).then_some(ModeChange::Clauses(clauses))
    }

    /// The mode that every file gets, if that is the same for all.
    pub(crate) fn fixed(&self) -> Option<u32> {
        match self {
            ModeChange::Set(mode) => Some(*mode),
            ModeChange::Clauses(_) => None,
        }
    }

    /// The mode that a file of mode `mode` gets.
    pub(crate) fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            ModeChange::Set(mode) => *mode,
            ModeChange::Clauses(clauses) => clauses.iter().fold(mode & 0o7777, |mode, c| c.apply(mode, is_dir)),
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let spread = |bit: u32| bit | bit << 3 | bit << 6;
        let mut bits = 0;
        if self.read {
            bits |= spread(4);
        }
        if self.write {
            bits |= spread(2);
        }
        if self.execute || (self.execute_some && (is_dir || mode & 0o111 != 0)) {
            bits |= spread(1);
        }
        if let Some(class) = self.copied {
            let shift = match class {
                'u' => 6,
                'g' => 3,
                _ => 0,
            };
            bits |= spread(mode >> shift & 7);
        }
        let mut special = 0;
        if self.set_id {
            special |= 0o6000;
        }
        if self.sticky {
            special |= 0o1000;
        }
        let change = (bits & 0o777 & self.who) | (special & self.who);
        match self.operation {
            '+' => mode | change,
            '-' => mode & !change,
            _ => (mode & !(self.who & 0o777)) & !(if is_dir { 0 } else { self.who & 0o6000 }) | change,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (text, before, is_dir, after) in [
            ("755", 0o644, false, 0o755),
            ("0705", 0o644, false, 0o705),
            ("u+x", 0o644, false, 0o744),
            ("go-w", 0o666, false, 0o644),
            ("a=rX", 0o750, true, 0o555),
            ("a=rX", 0o640, false, 0o444),
            ("u=rwx,g=u,o=", 0o604, false, 0o770),
            ("+t", 0o755, true, 0o1755),
            ("u+s", 0o755, false, 0o4755),
        ] {
            assert_eq!(ModeChange::parse(text).unwrap().apply(before, is_dir), after, "{text}");
        }
        for bad in ["", "8", "77777", "u", "z+x", "u+q"] {
            assert!(ModeChange::parse(bad).is_none(), "{bad}");
        }
    }
}
