//! Breakpoints: which steps somebody wants to stop before.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use rbuild_logfmt::event::Lines;
use serde::{Deserialize, Serialize};

/// A step to stop before: `LINE` of the Dockerfile, or `STAGE:STEP`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breakpoint {
    /// The step that stands on this line, or else the next one after it.
    Line(u32),
    /// A step of a stage, by its number in that stage as BuildKit's log shows it: `FROM` is 1.
    Step {
        /// Name or number of the stage, the first being 0.
        stage: String,
        /// The number.
        step: u32,
    },
}

/// A text that is no breakpoint, or one that no step is at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BreakpointError {
    /// The text has another form.
    #[error("`{0}` is no breakpoint: give a line of the Dockerfile, or STAGE:STEP")]
    Form(String),
}

impl FromStr for Breakpoint {
    type Err = BreakpointError;

    fn from_str(text: &str) -> Result<Breakpoint, BreakpointError> {
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number > 0);
        let point = match text.rsplit_once(':') {
            None => number(text).map(Breakpoint::Line),
            Some(("", _)) => None,
            Some((stage, step)) => number(step).map(|step| Breakpoint::Step { stage: stage.to_owned(), step }),
        };
        point.ok_or_else(|| BreakpointError::Form(text.to_owned()))
    }
}

impl fmt::Display for Breakpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Breakpoint::Line(line) => write!(f, "{line}"),
            Breakpoint::Step { stage, step } => write!(f, "{stage}:{step}"),
        }
    }
}

/// Where a step stands.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Number of the stage.
    pub(crate) stage: usize,
    /// Its name, as written.
    pub(crate) name: Option<String>,
    /// Number of the step in it, `FROM` being 1.
    pub(crate) step: u32,
    pub(crate) lines: Lines,
}

impl Place {
    fn is_in(&self, stage: &str) -> bool {
        self.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(stage))
            || stage.strip_prefix("stage-").unwrap_or(stage).parse() == Ok(self.stage)
    }
}

/// The steps to stop before that were not come to yet, by their first lines.
#[derive(Debug, Default)]
pub(crate) struct Breakpoints(Mutex<BTreeSet<u32>>);

impl Breakpoints {
    /// Finds the steps among those of a build; the first breakpoint that is at none.
    pub(crate) fn resolve(&self, wanted: &[Breakpoint], steps: &[Place]) -> Result<(), Breakpoint> {
        let mut lines = BTreeSet::new();
        for point in wanted {
            let found = match point {
                Breakpoint::Line(line) => {
                    let after = steps.iter().filter(|step| step.lines.end >= *line);
                    after.min_by_key(|step| step.lines.start)
                }
                Breakpoint::Step { stage, step: number } => {
                    steps.iter().find(|step| step.is_in(stage) && step.step == *number)
                }
            };
            lines.insert(found.ok_or_else(|| point.clone())?.lines.start);
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = lines;
        Ok(())
    }

    /// Whether to stop before the step that stands there. True once.
    pub(crate) fn take(&self, lines: Option<Lines>) -> bool {
        lines.is_some_and(|lines| self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&lines.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!("12".parse(), Ok(Breakpoint::Line(12)));
        let step = |stage: &str, step| Ok(Breakpoint::Step { stage: stage.to_owned(), step });
        assert_eq!("build:3".parse(), step("build", 3));
        assert_eq!("0:1".parse(), step("0", 1));
        for wrong in ["", "x", "0", ":2", "a:", "a:0", "-1", "1.5", "a:b"] {
            assert!(wrong.parse::<Breakpoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn steps_are_found() {
        let place = |stage, name: Option<&str>, step, start, end| Place {
            stage,
            name: name.map(str::to_owned),
            step,
            lines: Lines { start, end },
        };
        let steps = [place(0, Some("a"), 2, 3, 5), place(0, Some("a"), 3, 7, 7), place(1, None, 2, 9, 9)];
        let lines = |wanted: &[&str]| {
            let wanted: Vec<Breakpoint> = wanted.iter().map(|text| text.parse().unwrap()).collect();
            let points = Breakpoints::default();
            points.resolve(&wanted, &steps).map(|()| points.0.into_inner().unwrap().into_iter().collect::<Vec<_>>())
        };
        assert_eq!(lines(&["1"]), Ok(vec![3]));
        assert_eq!(lines(&["4", "A:3"]), Ok(vec![3, 7]));
        assert_eq!(lines(&["6", "8"]), Ok(vec![7, 9]));
        assert_eq!(lines(&["1:2", "stage-1:2"]), Ok(vec![9]));
        assert_eq!(lines(&["10"]), Err(Breakpoint::Line(10)));
        assert!(lines(&["b:2"]).is_err() && lines(&["a:4"]).is_err());
        let points = Breakpoints::default();
        points.resolve(&[Breakpoint::Line(1)], &steps).unwrap();
        assert!(points.take(Some(Lines { start: 3, end: 5 })) && !points.take(Some(Lines { start: 3, end: 5 })));
    }
}
