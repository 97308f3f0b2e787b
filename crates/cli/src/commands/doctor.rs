//! `rbuild doctor`: what this machine allows.

use rbuild_executor::manage::{self, CheckState, Diagnosis};

use crate::args::{DoctorArgs, Environment};
use crate::convert::store_options;
use crate::error::CliError;
use crate::output::Output;

/// Shows what was found; fails where no build can run.
pub(crate) fn doctor(args: DoctorArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let diagnosis = manage::doctor(&store_options(&args.common, environment)?);
    if args.json {
        let json = serde_json::to_string_pretty(&diagnosis)
            .map_err(|error| CliError::Io { action: "write JSON".to_owned(), source: error.into() })?;
        output.out(json + "\n");
    } else {
        output.out(show(&diagnosis));
    }
    if diagnosis.can_run { Ok(()) } else { Err(CliError::Partly) }
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
    text
}

#[cfg(test)]
mod tests {
    use rbuild_executor::manage::Check;

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
        };
        assert_eq!(
            show(&diagnosis),
            "ok  kernel     6.1\n-   newuidmap  not installed\nBAD store      no\n\n\
             RUN steps are confined by: userns with one id\n\n\
             What would help, most important first:\n  - install `newuidmap`\n"
        );
    }
}
