//! Failures that are rbuild's own, in its own words.

/// Renders an error: what happened, why, and what to do. The first line of `message` is the error, each further line a
/// cause of the line before; ends with a line feed.
///
/// ```
/// let text = rbuild_logfmt::report::report("cannot create a user namespace\nunshare: EPERM", Some("ask an admin"));
/// assert_eq!(text, "rbuild: error: cannot create a user namespace\ncaused by: unshare: EPERM\nhint: ask an admin\n");
/// ```
#[must_use]
pub fn report(message: &str, hint: Option<&str>) -> String {
    let mut lines = message.lines();
    let mut out = format!("rbuild: error: {}\n", lines.next().unwrap_or_default());
    for cause in lines {
        out.push_str(&format!("caused by: {cause}\n"));
    }
    if let Some(hint) = hint {
        out.push_str(&format!("hint: {hint}\n"));
    }
    out
}
