//! What `docker build --check` prints: a report on standard output, and what is wrong with the Dockerfile on standard
//! error (buildx `commands/build.go` at 0.29, BuildKit `frontend/subrequests/lint` at 0.25).

use serde_json::{Map, Value, json};

use crate::event::{Call, Failure, Lines, Outcome};
use crate::go_sort::sort_by;
use crate::renderer::{OutputStream, Sink};
use crate::report::report;
use crate::solve_status::json::{go_escape, ranges, source_info};
use crate::solve_status::{SolveStatus, Translator, VertexWarning};

/// Gathers what the checks find, and reports it at the end.
#[derive(Debug, Default)]
pub(crate) struct CheckReport {
    json: bool,
    warnings: Vec<VertexWarning>,
}

impl CheckReport {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, warnings: Vec::new() }
    }

    /// Takes the warnings out of a message where only the checks are run: the log shows none of them then.
    pub(crate) fn take(&mut self, translator: &Translator, status: &mut SolveStatus) {
        if translator.call == Call::Check {
            self.warnings.append(&mut status.warnings);
        }
    }

    /// Writes the report, if there is to be one.
    pub(crate) fn end(&self, translator: &Translator, outcome: &Outcome, quiet: bool, out: &mut dyn Sink) {
        let Outcome::Checked { failure, step, lines, .. } = outcome else { return };
        if let Some(Failure::Own { message, hint }) = failure {
            out.write(OutputStream::Stderr, report(message, hint.as_deref()).as_bytes());
            return;
        }
        let failed = failure.as_ref().map(|failure| translator.solve_error(failure, *step));
        let mut text = String::new();
        if quiet {
            // In place of the id of an image.
            text.push('\n');
        }
        if self.json {
            text.push_str(&self.json(translator, failed.as_deref(), *lines));
        } else {
            text.push_str(&self.text(translator, failed.is_some()));
        }
        out.write(OutputStream::Stdout, text.as_bytes());
        if let Some(message) = failed {
            let excerpt = lines.and_then(|lines| translator.client_excerpt(lines)).unwrap_or_default();
            out.write(OutputStream::Stderr, format!("ERROR: {message}\n{excerpt}\n").as_bytes());
        }
    }

    fn text(&self, translator: &Translator, failed: bool) -> String {
        let mut text = match self.warnings.len() {
            0 if failed => return String::new(),
            0 => return "Check complete, no warnings found.\n".to_owned(),
            1 => "Check complete, 1 warning has been found!\n".to_owned(),
            n => format!("Check complete, {n} warnings have been found!\n"),
        };
        let mut warnings: Vec<&VertexWarning> = self.warnings.iter().collect();
        sort_by(&mut warnings, |a, b| a.line() < b.line());
        for warning in warnings {
            text.push_str(&format!("\nWARNING: {}", warning.rule));
            if !warning.url.is_empty() {
                text.push_str(&format!(" - {}", warning.url));
            }
            text.push_str(&format!("\n{}\n", warning.message));
            text.push_str(&warning.lines.and_then(|lines| translator.client_excerpt(lines)).unwrap_or_default());
        }
        if failed {
            text.push('\n');
        }
        text
    }

    fn json(&self, translator: &Translator, failed: Option<&str>, lines: Option<Lines>) -> String {
        let source = translator.dockerfile.as_ref();
        let warnings = self.warnings.iter().map(|warning| {
            let mut object = Map::new();
            object.insert("ruleName".into(), json!(warning.rule));
            let texts =
                [("description", &warning.detail), ("url", &warning.url), ("detail", &warning.message)].into_iter();
            for (key, value) in texts.filter(|(_, value)| !value.is_empty()) {
                object.insert(key.into(), json!(value));
            }
            let location = warning.lines.map_or(json!({}), |lines| json!({"ranges": ranges(lines, source)}));
            object.insert("location".into(), location);
            Value::Object(object)
        });
        let warnings: Vec<Value> = warnings.collect();
        let mut result = Map::new();
        result.insert("warnings".into(), if warnings.is_empty() { Value::Null } else { Value::Array(warnings) });
        let sources: Vec<Value> = translator.dockerfile.iter().map(source_info).collect();
        result.insert("sources".into(), Value::Array(sources));
        if let Some(message) = failed {
            let location = lines.map_or(json!({}), |lines| json!({"ranges": ranges(lines, source)}));
            result.insert("buildError".into(), json!({"message": message, "location": location}));
        }
        // Two spaces for each level, as Go's encoder is asked for.
        format!("{}\n", go_escape(&format!("{:#}", Value::Object(result))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Builder, Dialect, Fact, Step, StepId, StepKind, Version, Warning};
    use crate::{Captured, Event, Format, RenderOptions, renderer};

    fn lint(rule: &str, message: &str, line: u32) -> Fact {
        Fact::Warning(Warning::Lint {
            rule: rule.into(),
            message: message.into(),
            description: "what <it> is".into(),
            url: if rule == "B" { String::new() } else { "https://x/".into() },
            lines: Some(Lines { start: line, end: line }),
        })
    }

    /// What a check writes, of a Dockerfile of two lines.
    fn check(found: Vec<Fact>, failure: Option<Failure>, format: Format, check_json: bool) -> (String, String) {
        let dialect = Dialect { builder: Builder::Buildkit, version: Version::V28 };
        let kind = StepKind::LoadDefinition { name: "Dockerfile".into() };
        let lines = failure.is_some().then_some(Lines { start: 2, end: 2 });
        let warnings = u32::try_from(found.len()).unwrap();
        let mut facts = vec![
            Fact::BuildStarted { format: 1, dialect, unix_ns: 0, quiet: format == Format::Quiet, call: Call::Check },
            Fact::Dockerfile { name: "Dockerfile".into(), text: "FROM a\nX".into(), path: Some("d/Dockerfile".into()) },
            Fact::StepDeclared(Step { id: StepId(0), kind, inputs: vec![] }),
            Fact::StepStarted { step: StepId(0) },
        ];
        facts.extend(found);
        facts.push(Fact::StepDone { step: StepId(0), cached: false, image: None });
        facts.push(Fact::BuildEnded {
            outcome: Outcome::Checked { warnings, failure, step: None, lines, ignored: false },
        });
        let mut out = Captured::default();
        let mut renderer = renderer(format, RenderOptions { check_json, ..RenderOptions::default() });
        for fact in facts {
            renderer.event(&Event { at: 0, fact }, &mut out);
        }
        renderer.finish(&mut out);
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    }

    const EXCERPT: &str = "--------------------\n   1 |     FROM a\n   2 | >>> X\n--------------------\n";
    const FIRST: &str = "--------------------\n   1 | >>> FROM a\n   2 |     X\n--------------------\n";

    #[test]
    fn nothing_found() {
        let (stdout, stderr) = check(vec![], None, Format::Buildkit, false);
        assert_eq!(stdout, "Check complete, no warnings found.\n");
        assert!(stderr.ends_with("#1 [internal] load build definition from Dockerfile\n#1 DONE 0.0s\n"), "{stderr}");
        assert_eq!(check(vec![], None, Format::Quiet, false).0, "\nCheck complete, no warnings found.\n");
        assert_eq!(check(vec![], None, Format::Tty, false).0, "Check complete, no warnings found.\n");
    }

    #[test]
    fn warnings_by_line_and_none_of_them_in_the_log() {
        let found = || vec![lint("B", "two", 2), lint("A", "one", 1), lint("A", "one", 1)];
        for format in [Format::Buildkit, Format::RawJson, Format::Tty] {
            let (stdout, stderr) = check(found(), None, format, false);
            let one = format!("\nWARNING: A - https://x/\none\nd/Dockerfile:1\n{FIRST}");
            assert_eq!(
                stdout,
                format!(
                    "Check complete, 3 warnings have been found!\n{one}{one}\nWARNING: B\ntwo\nd/Dockerfile:2\n{EXCERPT}"
                )
            );
            assert!(!stderr.contains("one") && !stderr.contains("arning"), "{stderr}");
        }
    }

    #[test]
    fn a_failure() {
        let failure = || Some(Failure::Parse { message: "unknown instruction: X".into(), file: None });
        let (stdout, stderr) = check(vec![lint("A", "one", 1)], failure(), Format::Buildkit, false);
        assert!(stdout.starts_with("Check complete, 1 warning has been found!\n\nWARNING: A"), "{stdout}");
        assert!(stdout.ends_with("---\n\n"), "{stdout}");
        let error = format!("\nERROR: unknown instruction: X\nd/Dockerfile:2\n{EXCERPT}\n");
        assert!(stderr.ends_with(&error), "{stderr}");
        let (stdout, stderr) = check(vec![], failure(), Format::Buildkit, false);
        assert_eq!(stdout, "");
        assert!(stderr.ends_with(&error), "{stderr}");
    }

    #[test]
    fn json_as_go_writes_it() {
        let failure = Some(Failure::Parse { message: "a < b".into(), file: None });
        let mut found = lint("B", "two", 2);
        if let Fact::Warning(Warning::Lint { lines: Some(lines), .. }) = &mut found {
            lines.start = 1;
        }
        let (stdout, _) = check(vec![found], failure, Format::Buildkit, true);
        let want = r#"{
  "warnings": [
    {
      "ruleName": "B",
      "description": "what \u003cit\u003e is",
      "detail": "two",
      "location": {
        "ranges": [
          {
            "start": {
              "line": 1
            },
            "end": {
              "line": 1
            }
          },
          {
            "start": {
              "line": 2
            },
            "end": {
              "line": 2
            }
          }
        ]
      }
    }
  ],
  "sources": [
    {
      "filename": "Dockerfile",
      "data": "RlJPTSBhClg=",
      "language": "Dockerfile"
    }
  ],
  "buildError": {
    "message": "a \u003c b",
    "location": {
      "ranges": [
        {
          "start": {
            "line": 2
          },
          "end": {
            "line": 2
          }
        }
      ]
    }
  }
}
"#;
        assert_eq!(stdout, want);
        assert!(check(vec![], None, Format::Buildkit, true).0.starts_with("{\n  \"warnings\": null,\n"));
    }
}
