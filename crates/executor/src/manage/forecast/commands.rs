//! Simple commands of a shell script, as far as they can be told from its text.

/// Words after which the name of a program comes.
const PREFIXES: [&str; 16] = [
    "!", "command", "do", "elif", "else", "env", "exec", "eval", "if", "nice", "nohup", "then", "time", "until",
    "while", "xargs",
];
/// Programs that run another one: what follows them and their flags.
const RUNNERS: [&str; 4] = ["chroot", "doas", "gosu", "sudo"];
/// Flags of those that take a value of their own.
const VALUED: [&str; 10] = ["-C", "-D", "-g", "-h", "-I", "-n", "-p", "-P", "-U", "-u"];

/// A simple command: a program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    words: Vec<String>,
}

impl Command {
    /// A command of its words, without what precedes the name of the program.
    pub(super) fn of(words: &[String]) -> Option<Command> {
        let mut rest = words;
        loop {
            let first = rest.first()?;
            let skipped = PREFIXES.contains(&first.as_str()) || is_assignment(first);
            match skipped {
                true => rest = &rest[1..],
                false => return Some(Command { words: rest.to_vec() }),
            }
        }
    }

    /// The name of the program, without its directory.
    pub(super) fn program(&self) -> &str {
        let name = self.words.first().map(String::as_str).unwrap_or_default();
        name.rsplit('/').next().unwrap_or(name)
    }

    /// Its arguments.
    pub(super) fn args(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The command that this one runs, as `sudo` does.
    fn inner(&self) -> Option<Command> {
        if !RUNNERS.contains(&self.program()) {
            return None;
        }
        let mut args = self.args();
        // The new root, or the user.
        let mut operands = usize::from(matches!(self.program(), "chroot" | "gosu"));
        while let Some(first) = args.first() {
            let taken = match first.as_str() {
                flag if VALUED.contains(&flag) => 2,
                flag if flag.starts_with('-') => 1,
                word if is_assignment(word) => 1,
                _ if operands > 0 => {
                    operands -= 1;
                    1
                }
                _ => break,
            };
            args = args.get(taken..).unwrap_or_default();
        }
        Command::of(args)
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        !name.is_empty() && !name.as_bytes()[0].is_ascii_digit() && name.bytes().all(letters)
    })
}

/// Whether a program is a shell.
pub(super) fn is_shell(program: &str) -> bool {
    matches!(program.rsplit('/').next().unwrap_or(program), "sh" | "ash" | "bash" | "dash" | "ksh" | "zsh")
}

/// Whether flags of a shell make its next argument a script, as `-c` and `-ec`.
pub(super) fn takes_script(flags: &str) -> bool {
    flags.strip_prefix('-').is_some_and(|letters| letters.ends_with('c') && !letters.starts_with('-'))
}

/// All simple commands of a script, in their order; also those that another runs, and those within `$(…)`.
pub(super) fn scan(script: &str) -> Vec<Command> {
    let mut scanner = Scanner::default();
    scanner.read(script);
    let mut found = Vec::new();
    for words in scanner.commands {
        let mut command = Command::of(&words);
        while let Some(next) = command {
            command = next.inner();
            if let [flags, script, ..] = next.args()
                && is_shell(next.program())
                && takes_script(flags)
            {
                found.extend(scan(script));
            }
            found.push(next);
        }
    }
    found
}

#[derive(Default)]
struct Scanner {
    commands: Vec<Vec<String>>,
    words: Vec<String>,
    word: String,
    /// Whether a word has begun, which may be empty as `''` is.
    begun: bool,
}

impl Scanner {
    fn end_word(&mut self) {
        if std::mem::take(&mut self.begun) {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        if !self.words.is_empty() {
            self.commands.push(std::mem::take(&mut self.words));
        }
    }

    fn push(&mut self, letter: char) {
        self.begun = true;
        self.word.push(letter);
    }

    fn read(&mut self, script: &str) {
        let mut rest = script.chars().peekable();
        while let Some(letter) = rest.next() {
            match letter {
                '\\' => match rest.next() {
                    None | Some('\n') => {}
                    Some(escaped) => self.push(escaped),
                },
                '\'' => {
                    self.begun = true;
                    self.word.extend(rest.by_ref().take_while(|letter| *letter != '\''));
                }
                '"' => {
                    self.begun = true;
                    // What is substituted in it is not looked into.
                    while let Some(letter) = rest.next().filter(|letter| *letter != '"') {
                        match letter {
                            '\\' => self.word.extend(rest.next()),
                            letter => self.word.push(letter),
                        }
                    }
                }
                '#' if !self.begun => {
                    // The line goes on being the end of the command.
                    while rest.next_if(|letter| *letter != '\n').is_some() {}
                }
                '$' if rest.peek() == Some(&'(') => {
                    rest.next();
                    self.end_word();
                    self.end_command();
                }
                ' ' | '\t' | '\r' => self.end_word(),
                '\n' | ';' | '&' | '|' | '(' | ')' | '`' => {
                    // `2>&1` and `&>file` are redirections.
                    let redirects = letter == '&' && (self.word.ends_with(['<', '>']) || rest.peek() == Some(&'>'));
                    if redirects { self.push(letter) } else { self.end_command() }
                }
                '{' | '}' if !self.begun && rest.peek().is_none_or(|next| next.is_whitespace() || *next == ';') => {
                    self.end_command();
                }
                letter => self.push(letter),
            }
        }
        self.end_command();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(script: &str) -> Vec<String> {
        scan(script).iter().map(|command| command.program().to_owned()).collect()
    }

    #[test]
    fn commands_are_cut_where_the_shell_cuts() {
        for (script, expected) in [
            ("a b && c|d; e & f\ng", &["a", "c", "d", "e", "f", "g"][..]),
            ("a 'b; c' \"d && e\" \\; f", &["a"]),
            ("a >x 2>&1 # b\nc", &["a", "c"]),
            ("a#b", &["a#b"]),
            ("if a; then b; else c; fi", &["a", "b", "c", "fi"]),
            ("(a) && { b; }", &["a", "b"]),
            ("x=1 y='2 3' a", &["a"]),
            ("x=$(a b) c", &["a", "c"]),
            ("sudo -u x a b", &["sudo", "a"]),
            ("chroot /mnt a", &["chroot", "a"]),
            ("sh -c 'a; b' c", &["a", "b", "sh"]),
            ("bash -x a", &["bash"]),
            ("/usr/bin/a", &["a"]),
            ("'", &[""]),
            ("", &[]),
        ] {
            assert_eq!(programs(script), expected, "{script}");
        }
    }
}
