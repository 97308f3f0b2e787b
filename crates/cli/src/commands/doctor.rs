//! `rbuild doctor`: what this machine allows.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use rbuild_executor::manage::{self, CheckState, Diagnosis, StepForecast};

use crate::args::{DoctorArgs, Environment};
use crate::convert::store_options;
use crate::error::CliError;
use crate::output::Output;

/// Shows what was found; fails where no build can run.
pub(crate) fn doctor(args: DoctorArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let store = store_options(&args.common, environment)?;
    let diagnosis = match &args.dockerfile {
        None => manage::doctor(&store),
        Some(path) => manage::doctor_of(&store, &read(path)?)?,
    };
    if args.json {
        let json = serde_json::to_string_pretty(&diagnosis)
            .map_err(|error| CliError::Io { action: "write JSON".to_owned(), source: error.into() })?;
        output.out(json + "\n");
    } else {
        output.out(show(&diagnosis));
    }
    if diagnosis.can_run { Ok(()) } else { Err(CliError::Partly) }
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let told = |source| CliError::Io { action: format!("read `{}`", path.display()), source };
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map_err(told)?;
        return Ok(bytes);
    }
    if path.is_dir() { fs::read(path.join("Dockerfile")) } else { fs::read(path) }.map_err(told)
}

fn show(diagnosis: &Diagnosis) -> String {
    let width = diagnosis.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for check in &diagnosis.checks {
        let mark = match check.state {
            CheckState::Good => "ok ",
            CheckState::Lacking => "-  ",
            CheckState::Bad => "BAD",
        };
        text.push_str(&format!("{mark} {:width$}  {}\n", check.name, check.detail));
    }
    match &diagnosis.isolation {
        Some(isolation) => text.push_str(&format!("\nRUN steps are confined by: {isolation}\n")),
        None => text.push_str("\nRUN steps cannot be run here\n"),
    }
    if !diagnosis.remedies.is_empty() {
        text.push_str("\nWhat would help, most important first:\n");
        for remedy in &diagnosis.remedies {
            text.push_str(&format!("  - {remedy}\n"));
        }
    }
    if let Some(steps) = &diagnosis.steps {
        text.push_str(&show_steps(steps));
    }
    text
}

/// Most characters of a step that are shown.
const MAX_STEP: usize = 72;

fn show_steps(steps: &[StepForecast]) -> String {
    if steps.is_empty() {
        return "\nThe Dockerfile has no RUN\n".to_owned();
    }
    let mut text = String::from("\nRUN steps of the Dockerfile:\n");
    for step in steps {
        let words = step.step.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown = match words.char_indices().nth(MAX_STEP) {
            Some((end, _)) => format!("{}…", &words[..end]),
            None => words,
        };
        let under = step.under.as_deref().unwrap_or("cannot be run here");
        text.push_str(&format!("  line {}, stage {}: {shown}\n    {under}\n", step.line, step.stage));
        for trouble in &step.troubles {
            text.push_str(&format!("    ! {}: {}\n      {}\n", trouble.of, trouble.what, trouble.remedy));
        }
    }
    let troubles: usize = steps.iter().map(|step| step.troubles.len()).sum();
    if troubles == 0 && steps.iter().all(|step| step.under.is_some()) {
        text.push_str("Nothing in them is known not to work here\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use rbuild_executor::manage::{Check, Trouble};

    use super::*;

    #[test]
    fn shown() {
        let check = |name: &str, state, detail: &str| Check { name: name.into(), state, detail: detail.into() };
        let diagnosis = Diagnosis {
            can_run: true,
            isolation: Some("userns with one id".into()),
            checks: vec![
                check("kernel", CheckState::Good, "6.1"),
                check("newuidmap", CheckState::Lacking, "not installed"),
                check("store", CheckState::Bad, "no"),
            ],
            remedies: vec!["install `newuidmap`".into()],
            probe: serde_json::Value::Null,
            steps: None,
        };
        assert_eq!(
            show(&diagnosis),
            "ok  kernel     6.1\n-   newuidmap  not installed\nBAD store      no\n\n\
             RUN steps are confined by: userns with one id\n\n\
             What would help, most important first:\n  - install `newuidmap`\n"
        );
    }

    #[test]
    fn steps_shown() {
        let trouble = Trouble { of: "mount".into(), what: "may not".into(), remedy: "do not".into() };
        let step = |line, step: &str, troubles: &[Trouble]| StepForecast {
            stage: "a".into(),
            line,
            step: step.into(),
            under: Some("ptrace".into()),
            troubles: troubles.to_vec(),
        };
        let long = format!("RUN {}", "x".repeat(MAX_STEP));
        let steps = [step(2, "RUN a &&   mount", &[trouble]), step(3, &long, &[])];
        let shown = format!("RUN {}…", "x".repeat(MAX_STEP - 4));
        assert_eq!(
            show_steps(&steps),
            format!(
                "\nRUN steps of the Dockerfile:\n  line 2, stage a: RUN a && mount\n    ptrace\n    ! mount: may not\n      do \
                 not\n  line 3, stage a: {shown}\n    ptrace\n"
            )
        );
        assert!(show_steps(&steps[1..]).ends_with("Nothing in them is known not to work here\n"));
        let nowhere = StepForecast { under: None, ..steps[1].clone() };
        assert!(show_steps(&[nowhere]).ends_with("    cannot be run here\n"));
        assert_eq!(show_steps(&[]), "\nThe Dockerfile has no RUN\n");
    }
}
