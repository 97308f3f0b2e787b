//! `rbuild images`, `rmi`, `tag`, `history` and `inspect`: what the store has.

use std::time::{SystemTime, UNIX_EPOCH};

use rbuild_executor::manage::{self, Force, HistoryRow, ImageName, ImageSummary, ManageError, Removed, Time};
use serde_json::json;
use time::OffsetDateTime;

use crate::args::{
    Arity, Environment, HistoryArgs, ImagesArgs, InspectArgs, ListFormat, RmiArgs, TagArgs, check_command_arity,
};
use crate::convert::store_options;
use crate::error::CliError;
use crate::human;
use crate::output::Output;

/// What Docker shows where there is nothing.
const NONE: &str = "<none>";

fn now() -> Time {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Lists images.
pub(crate) fn images(args: ImagesArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    check_command_arity("images", "[OPTIONS] [REPOSITORY[:TAG]]", Arity::AtMost(1), args.names.len())?;
    let images = manage::list(&store_options(&args.common, environment)?)?;
    output.out(show_images(&images, &args, now()));
    Ok(())
}

/// One line of the list: an image under one of its names.
struct Line<'a> {
    image: &'a ImageSummary,
    name: Option<&'a ImageName>,
}

fn lines<'a>(images: &'a [ImageSummary], wanted: Option<&str>) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for image in images {
        let names = image.names.iter().filter(|name| wanted.is_none_or(|wanted| is_named(name, wanted)));
        lines.extend(names.map(|name| Line { image, name: Some(name) }));
        if image.names.is_empty() && wanted.is_none() {
            lines.push(Line { image, name: None });
        }
    }
    lines
}

/// Whether a name is `repository` or `repository:tag`, with or without the parts that Docker leaves out.
fn is_named(name: &ImageName, wanted: &str) -> bool {
    let short = wanted.strip_prefix("docker.io/").unwrap_or(wanted);
    let short = match short.strip_prefix("library/") {
        Some(rest) if !rest.contains('/') => rest,
        _ => short,
    };
    name.repository == short || name.familiar().is_some_and(|familiar| familiar == short)
}

fn show_images(images: &[ImageSummary], args: &ImagesArgs, now: Time) -> String {
    let lines = lines(images, args.names.first().map(String::as_str));
    let id = |line: &Line<'_>| {
        if args.no_trunc { line.image.id.clone() } else { human::short_id(&line.image.id).to_owned() }
    };
    if args.quiet {
        return lines.iter().map(|line| id(line) + "\n").collect();
    }
    let repository = |line: &Line<'_>| line.name.map_or(NONE, |name| &name.repository).to_owned();
    let tag = |line: &Line<'_>| line.name.and_then(|name| name.tag.clone()).unwrap_or_else(|| NONE.to_owned());
    let digest = |line: &Line<'_>| line.name.and_then(|name| name.digest.clone()).unwrap_or_else(|| NONE.to_owned());
    let since = |line: &Line<'_>| line.image.created.map_or_else(|| "N/A".to_owned(), |time| human::ago(time, now));
    if args.format == Some(ListFormat::Json) {
        let object = |line: &Line<'_>| {
            json!({
                "Containers": "N/A",
                "CreatedAt": line.image.created.map(date).unwrap_or_else(|| "N/A".to_owned()),
                "CreatedSince": since(line),
                "Digest": digest(line),
                "ID": id(line),
                "Repository": repository(line),
                "SharedSize": "N/A",
                "Size": human::size(line.image.size),
                "Tag": tag(line),
                "UniqueSize": "N/A",
            })
        };
        return lines.iter().map(|line| format!("{}\n", object(line))).collect();
    }
    let mut header = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if args.digests {
        header.insert(2, "DIGEST");
    }
    let row = |line: &Line<'_>| {
        let mut row = vec![repository(line), tag(line), id(line), since(line), human::size(line.image.size)];
        if args.digests {
            row.insert(2, digest(line));
        }
        row
    };
    human::table(&header, &lines.iter().map(row).collect::<Vec<_>>())
}

/// A time as Go writes it: `2026-11-22 10:31:34 +0000 UTC`.
fn date(time: Time) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
    let date = OffsetDateTime::from_unix_timestamp(time).ok();
    date.and_then(|date| date.format(format).ok()).unwrap_or_else(|| "N/A".to_owned())
}

/// Removes names and images. One that cannot be removed does not keep the others.
pub(crate) fn rmi(args: RmiArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    check_command_arity("rmi", "[OPTIONS] IMAGE [IMAGE...]", Arity::AtLeast(1), args.images.len())?;
    let store = store_options(&args.common, environment)?;
    let force = if args.force { Force::Yes } else { Force::No };
    let (mut failed, mut deleted) = (false, false);
    for image in &args.images {
        match manage::remove(&store, image, force) {
            Ok(removed) => {
                deleted |= removed.iter().any(|removed| matches!(removed, Removed::Deleted(_)));
                output.out(show_removed(&removed));
            }
            Err(error) => {
                failed |= !(args.force && matches!(error, ManageError::NoImage { .. }));
                output.err(CliError::from(error).report(!args.common.no_hint));
            }
        }
    }
    if deleted && !args.no_prune {
        manage::collect(&store)?;
    }
    if failed { Err(CliError::Partly) } else { Ok(()) }
}

/// What was removed, as `docker rmi` tells it.
pub(crate) fn show_removed(removed: &[Removed]) -> String {
    removed
        .iter()
        .map(|removed| match removed {
            Removed::Untagged(name) => format!("Untagged: {name}\n"),
            Removed::Deleted(id) => format!("Deleted: {id}\n"),
            _ => String::new(),
        })
        .collect()
}

/// Gives an image another name.
pub(crate) fn tag(args: TagArgs, environment: &Environment) -> Result<(), CliError> {
    check_command_arity("tag", "IMAGE NAME[:TAG]", Arity::Exactly(2), args.names.len())?;
    if let [image, name] = args.names.as_slice() {
        manage::tag(&store_options(&args.common, environment)?, image, name)?;
    }
    Ok(())
}

/// Shows how an image was made.
pub(crate) fn history(args: HistoryArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    check_command_arity("history", "[OPTIONS] IMAGE", Arity::Exactly(1), args.images.len())?;
    let store = store_options(&args.common, environment)?;
    for image in &args.images {
        let rows = manage::history(&store, image)?;
        output.out(show_history(&rows, &args, now()));
    }
    Ok(())
}

fn show_history(rows: &[HistoryRow], args: &HistoryArgs, now: Time) -> String {
    let id = |row: &HistoryRow| match &row.id {
        None => "<missing>".to_owned(),
        Some(id) if args.no_trunc => id.clone(),
        Some(id) => human::short_id(id).to_owned(),
    };
    if args.quiet {
        return rows.iter().map(|row| id(row) + "\n").collect();
    }
    let since = |row: &HistoryRow| row.created.map_or_else(|| "N/A".to_owned(), |time| human::ago(time, now));
    let at = |row: &HistoryRow| row.created.map_or_else(|| "N/A".to_owned(), whole_seconds);
    let size = |row: &HistoryRow| {
        if args.human { human::size(row.size) } else { row.size.to_string() }
    };
    let by = |row: &HistoryRow| {
        let text = row.created_by.replace('\t', " ");
        if args.no_trunc { text } else { human::ellipsis(&text, 45) }
    };
    if args.format == Some(ListFormat::Json) {
        let object = |row: &HistoryRow| {
            json!({
                "Comment": row.comment,
                "CreatedAt": at(row),
                "CreatedBy": by(row),
                "CreatedSince": if args.human { since(row) } else { at(row) },
                "ID": id(row),
                "Size": size(row),
            })
        };
        return rows.iter().map(|row| format!("{}\n", object(row))).collect();
    }
    let created = if args.human { "CREATED" } else { "CREATED AT" };
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![id(row), if args.human { since(row) } else { at(row) }, by(row), size(row), row.comment.clone()]
        })
        .collect();
    human::table(&["IMAGE", created, "CREATED BY", "SIZE", "COMMENT"], &rows)
}

fn whole_seconds(time: Time) -> String {
    let rfc3339 = &time::format_description::well_known::Rfc3339;
    let date = OffsetDateTime::from_unix_timestamp(time).ok();
    date.and_then(|date| date.format(rfc3339).ok()).unwrap_or_else(|| "N/A".to_owned())
}

/// Shows images in full. Those there are are shown even where others are not there.
pub(crate) fn inspect(args: InspectArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    check_command_arity("inspect", "[OPTIONS] IMAGE [IMAGE...]", Arity::AtLeast(1), args.images.len())?;
    let store = store_options(&args.common, environment)?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for image in &args.images {
        match manage::inspect(&store, image) {
            Ok(value) => found.push(value),
            Err(error) => errors.push(CliError::from(error)),
        }
    }
    if args.format.is_some() {
        output.out(found.iter().map(|image| format!("{image}\n")).collect::<String>());
    } else {
        output.out(indented(&found)? + "\n");
    }
    for error in &errors {
        output.err(error.report(!args.common.no_hint));
    }
    if errors.is_empty() { Ok(()) } else { Err(CliError::Partly) }
}

/// JSON with four spaces, as `docker inspect` writes it.
fn indented(values: &[serde_json::Value]) -> Result<String, CliError> {
    use serde::Serialize;
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    values
        .serialize(&mut serializer)
        .map_err(|error| CliError::Io { action: "write JSON".to_owned(), source: error.into() })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;
    use pretty_assertions::assert_eq;

    use super::*;
    use crate::args::{self, Command, CommandLine};

    fn command(line: &[&str]) -> Command {
        let matches = args::command().try_get_matches_from([&["rbuild"], line].concat()).unwrap();
        CommandLine::from_arg_matches(&matches).unwrap().command
    }

    fn images_of(line: &[&str]) -> String {
        let Command::Images(args) = command(line) else { panic!("{line:?}") };
        let name = |repository: &str, tag: &str, digest: Option<&str>| ImageName {
            repository: repository.into(),
            tag: Some(tag.into()),
            digest: digest.map(Into::into),
        };
        let image = |id: char, names: Vec<ImageName>| ImageSummary {
            id: format!("sha256:{}", id.to_string().repeat(64)),
            names,
            created: Some(1_000_000),
            size: 1_984_348,
            layers: 1,
        };
        let images = [
            image('a', vec![name("busybox", "latest", Some("sha256:dd")), name("r.io/x", "1", None)]),
            image('b', vec![]),
        ];
        show_images(&images, &args, 1_000_000 + 7 * 3600)
    }

    #[test]
    fn lists_of_images() {
        assert_eq!(
            images_of(&["images"]),
            "REPOSITORY   TAG       IMAGE ID       CREATED       SIZE\n\
             busybox      latest    aaaaaaaaaaaa   7 hours ago   1.98MB\n\
             r.io/x       1         aaaaaaaaaaaa   7 hours ago   1.98MB\n\
             <none>       <none>    bbbbbbbbbbbb   7 hours ago   1.98MB\n"
        );
        assert_eq!(images_of(&["images", "-q", "docker.io/library/busybox"]), "aaaaaaaaaaaa\n");
        assert_eq!(images_of(&["images", "-q", "r.io/x:1"]), "aaaaaaaaaaaa\n");
        assert_eq!(images_of(&["images", "-q", "r.io/x:2"]), "");
        assert_eq!(
            images_of(&["images", "--digests", "busybox"]),
            "REPOSITORY   TAG       DIGEST      IMAGE ID       CREATED       SIZE\n\
             busybox      latest    sha256:dd   aaaaaaaaaaaa   7 hours ago   1.98MB\n"
        );
        let json = images_of(&["images", "--format=json", "--no-trunc", "busybox"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["CreatedAt"], "1970-01-12 13:46:40 +0000 UTC");
        assert_eq!(json["ID"], format!("sha256:{}", "a".repeat(64)));
    }

    fn history_of(line: &[&str]) -> String {
        let Command::History(args) = command(line) else { panic!("{line:?}") };
        let row = |id: Option<&str>, by: &str, size| HistoryRow {
            id: id.map(Into::into),
            created: Some(1_000_000),
            created_text: String::new(),
            created_by: by.into(),
            size,
            comment: "c".into(),
        };
        let rows =
            [row(Some("sha256:0123456789abcdef"), &format!("RUN\t{}", "x".repeat(50)), 2048), row(None, "ADD", 0)];
        show_history(&rows, &args, 1_000_060)
    }

    #[test]
    fn histories() {
        assert_eq!(
            history_of(&["history", "x"]),
            "IMAGE          CREATED              CREATED BY                                      SIZE      COMMENT\n\
             0123456789ab   About a minute ago   RUN xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…   2.05kB    c\n\
             <missing>      About a minute ago   ADD                                             0B        c\n"
        );
        assert_eq!(history_of(&["history", "-q", "x"]), "0123456789ab\n<missing>\n");
        assert!(history_of(&["history", "-H=false", "--no-trunc", "x"]).contains("1970-01-12T13:46:40Z"));
        assert!(history_of(&["history", "--format", "json", "x"]).starts_with(r#"{"Comment":"c","CreatedAt":"#));
    }

    #[test]
    fn removals() {
        let removed = [Removed::Untagged("a:1".into()), Removed::Deleted("sha256:1".into())];
        assert_eq!(show_removed(&removed), "Untagged: a:1\nDeleted: sha256:1\n");
    }
}
