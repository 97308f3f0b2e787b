//! What the RUN steps of a Dockerfile are likely to miss here, told before they are run.
//!
//! It goes by the programs that the text of a step names, so it is a guess, and a careful one: what is not surely the
//! name of a program says nothing.

mod commands;
mod troubles;

use std::collections::HashMap;

use rbuild_parser::{CommandLine, Instruction, InstructionKind, ParseError, ParseOptions, Run, Stage, Version};
use rbuild_sandbox::{Facts, Privilege};
use serde::Serialize;

use commands::{Command, scan};
use troubles::{PROGRAMS, Rule};

/// What is known of a RUN before it is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepForecast {
    /// Its stage: the name, or the number of the stage.
    pub stage: String,
    /// The line on which it begins.
    pub line: usize,
    /// Its text.
    pub step: String,
    /// What it will run under, in words; none where no step can be run.
    pub under: Option<String>,
    /// What is likely not to work in it.
    pub troubles: Vec<Trouble>,
}

/// Something that is likely not to work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The program, flag or argument that it is about.
    pub of: String,
    /// What will happen.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// How much of a real root the commands of a step are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confinement {
    /// Real root.
    Root,
    /// Root in a user namespace.
    Namespace,
    /// An ordinary process whose system calls are answered for it.
    Emulated,
}

impl Confinement {
    /// That of a worker.
    pub(super) fn of(facts: &Facts) -> Confinement {
        match facts.privilege {
            Privilege::Emulated => Confinement::Emulated,
            Privilege::Root => Confinement::Root,
            Privilege::ManyIds | Privilege::OneId => Confinement::Namespace,
        }
    }
}

/// What steps run under here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// In words.
    pub(super) under: &'a str,
    /// How much of a root they are.
    pub(super) confinement: Confinement,
    /// Whether an ordinary user of this group may send echo requests (icmp(7)).
    pub(super) may_ping: bool,
}

/// Who a step runs as, as far as the Dockerfile says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Root,
    Other,
    /// A variable names it.
    Unknown,
}

impl User {
    fn of(name: &str) -> User {
        match name.split(':').next().unwrap_or_default() {
            "root" | "0" => User::Root,
            name if name.contains('$') || name.is_empty() => User::Unknown,
            _ => User::Other,
        }
    }
}

/// Looks at every RUN of a Dockerfile; there is no place where no step can be run.
///
/// # Errors
/// What Docker refuses in it.
pub(super) fn forecast(dockerfile: &[u8], place: Option<Place<'_>>) -> Result<Vec<StepForecast>, Box<ParseError>> {
    let options = ParseOptions::for_file(Version::V28, dockerfile);
    let stages = rbuild_parser::parse_with(dockerfile, options)?.instructions()?.stages;
    let mut steps = Vec::new();
    // An image that is pulled may name another user; that is not known before.
    let mut users: HashMap<String, User> = HashMap::new();
    for (index, stage) in stages.iter().enumerate() {
        let mut user = users.get(&stage.base.to_lowercase()).copied().unwrap_or(User::Root);
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::User(name) => user = User::of(name),
                InstructionKind::Run(run) => steps.push(step(index, stage, instruction, run, user, place)),
                _ => {}
            }
        }
        users.insert(index.to_string(), user);
        users.extend(stage.name.clone().map(|name| (name, user)));
    }
    Ok(steps)
}

fn step(
    index: usize,
    stage: &Stage,
    instruction: &Instruction,
    run: &Run,
    user: User,
    place: Option<Place<'_>>,
) -> StepForecast {
    let mut troubles = Vec::new();
    if let Some(place) = place {
        for command in commands_of(&run.command) {
            let found = PROGRAMS.iter().filter(|rule| rule.holds(&command, place, user));
            troubles.extend(found.map(|rule| rule.trouble(&command)));
        }
        troubles.extend(troubles::of_flags(run, stage));
    }
    let mut seen = Vec::new();
    troubles.retain(|trouble| {
        let is_new = !seen.contains(trouble);
        seen.push(trouble.clone());
        is_new
    });
    StepForecast {
        stage: stage.name.clone().unwrap_or_else(|| index.to_string()),
        line: instruction.lines.start,
        step: instruction.original.clone(),
        under: place.map(|place| place.under.to_owned()),
        troubles,
    }
}

/// The simple commands of a RUN: of its text, of the words of its JSON form, or of the here-document that is its script.
fn commands_of(line: &CommandLine) -> Vec<Command> {
    if line.prepend_shell {
        let text = line.args.first().map(String::as_str).unwrap_or_default();
        let mut commands = scan(text);
        // Alone it is the script itself; else it is a file or the input of some program.
        if let [file] = &line.files[..]
            && text.trim_start().starts_with("<<")
            && text.split_whitespace().count() == 1
            && !file.data.starts_with(b"#!")
        {
            commands = scan(&String::from_utf8_lossy(&file.data));
        }
        return commands;
    }
    match &line.args[..] {
        [shell, flags, script, ..] if commands::is_shell(shell) && commands::takes_script(flags) => scan(script),
        words => Command::of(words).into_iter().collect(),
    }
}

impl Rule {
    fn holds(&self, command: &Command, place: Place<'_>, user: User) -> bool {
        self.programs.contains(&command.program()) && (self.when)(command, place, user)
    }

    fn trouble(&self, command: &Command) -> Trouble {
        Trouble { of: command.program().to_owned(), what: self.what.to_owned(), remedy: self.remedy.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a Dockerfile, as `line: program`.
    fn told(dockerfile: &str, confinement: Confinement) -> Vec<String> {
        let place = Place { under: "it", confinement, may_ping: false };
        let steps = forecast(dockerfile.as_bytes(), Some(place)).unwrap();
        steps
            .iter()
            .flat_map(|step| step.troubles.iter().map(move |trouble| format!("{}: {}", step.line, trouble.of)))
            .collect()
    }

    const ALL: [Confinement; 3] = [Confinement::Root, Confinement::Namespace, Confinement::Emulated];

    #[test]
    fn ordinary_steps_have_no_trouble() {
        let dockerfile = "FROM debian\nRUN apt-get update && apt-get install -y docker.io ping sudo gdb\n\
            RUN echo mount /proc; useradd -m x && chown x: /home/x # systemctl start\n\
            RUN [\"sh\", \"-c\", \"make -j2 | tee mount\"]\nRUN cat <<E >/run.sh\nsystemctl start x\nE\n\
            RUN if [ -e /x ]; then setcap cap_net_raw+ep /bin/x; mknod /n c 1 3; fi\n\
            RUN <<E python3\nmount('x')\nE\nRUN <<E\n#!/usr/bin/python3\nmount\nE\n";
        for confinement in ALL {
            assert_eq!(told(dockerfile, confinement), Vec::<String>::new(), "{confinement:?}");
        }
    }

    #[test]
    fn programs_are_found_wherever_they_are_called() {
        let dockerfile = "FROM debian\nRUN apt-get update && \\\n  (cd /; LANG=C sudo -u x mount /dev/sda /mnt) || true\n\
            RUN [\"/bin/bash\", \"-ec\", \"systemctl enable x\\nsystemctl restart x\"]\nRUN [\"docker\", \"ps\"]\n\
            RUN <<E\nset -e\nif true; then exec /sbin/modprobe x; fi\nE\nRUN x=$(podman info) y=`losetup -f`\n";
        let expected = ["2: mount", "4: systemctl", "5: docker", "6: modprobe", "10: podman", "10: losetup"];
        for confinement in ALL {
            assert_eq!(told(dockerfile, confinement), expected, "{confinement:?}");
        }
    }

    #[test]
    fn some_work_where_there_is_more_privilege() {
        let dockerfile = "FROM debian AS a\nRUN ping -c1 host && gdb -p 1\nRUN dpkg --add-architecture i386\n\
            USER x\nRUN sudo apt-get update\nFROM a\nRUN sudo id; gcc -m32 x.c\nUSER root\nRUN sudo id\nUSER $U\nRUN sudo id\n";
        assert_eq!(told(dockerfile, Confinement::Root), Vec::<String>::new());
        assert_eq!(told(dockerfile, Confinement::Namespace), ["2: ping"]);
        let emulated = ["2: ping", "2: gdb", "3: dpkg", "5: sudo", "7: sudo", "7: gcc"];
        assert_eq!(told(dockerfile, Confinement::Emulated), emulated);
    }

    #[test]
    fn flags_of_the_step_and_another_platform() {
        let other = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };
        let dockerfile = format!(
            "# syntax=docker/dockerfile:1-labs\nFROM --platform=linux/{other} x\nRUN true\nFROM --platform=$BUILDPLATFORM x\n\
             RUN --security=insecure true\nFROM --platform=linux/{} x\nRUN true\n",
            troubles::architecture()
        );
        let platform = format!("3: --platform=linux/{other}");
        assert_eq!(told(&dockerfile, Confinement::Root), [platform.as_str(), "5: --security=insecure"]);
    }

    #[test]
    fn nothing_is_foretold_where_nothing_runs() {
        let steps = forecast(b"FROM x\nRUN a && \\\n  mount\n", None).unwrap();
        let [step] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!((step.stage.as_str(), step.line, step.step.as_str()), ("0", 2, "RUN a &&   mount"));
        assert_eq!((&step.under, step.troubles.len()), (&None, 0));
        assert!(forecast(b"FROM x\nRUM y\n", None).is_err());
    }
}
