//! Which files of a tree Docker's clients send: the rules of each, since they differ in what a pattern, a parent
//! directory and an exception do.

use std::path::{Path, PathBuf};

use rbuild_logfmt::event::Version;
use rbuild_parser::ignore::{IgnoreError, MatchInfo, PatternMatcher, Walk};

use super::tree::Step;
use crate::rootfs::go_match;

/// What becomes of a file that the walk meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was met; it may be sent next, or not at all.
    Met,
    /// It is sent.
    Sent,
}

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    /// The legacy client's tar.
    Tar(Version),
    /// BuildKit's file synchronisation.
    Sync(Version),
}

/// A file as the rules see it, with what the caller wants to know it by.
#[derive(Clone, Debug)]
pub(super) struct Candidate<T> {
    pub(super) path: PathBuf,
    pub(super) is_dir: bool,
    pub(super) payload: T,
}

/// The rules of one client for one walk.
#[derive(Debug)]
pub(super) struct Filter<'a, T> {
    rules: Rules,
    include: Option<&'a PatternMatcher>,
    exclude: &'a PatternMatcher,
    /// The directories that lead to the present file.
    parents: Vec<Parent<T>>,
    /// 20's BuildKit: the last directory that is included whole.
    included: Option<PathBuf>,
}

#[derive(Debug)]
struct Parent<T> {
    candidate: Candidate<T>,
    include: MatchInfo,
    exclude: MatchInfo,
    sent: bool,
}

type Sink<'s, T> = &'s mut dyn FnMut(Fate, &Candidate<T>);

impl<'a, T: Clone> Filter<'a, T> {
    pub(super) fn new(rules: Rules, include: Option<&'a PatternMatcher>, exclude: &'a PatternMatcher) -> Self {
        Self { rules, include, exclude, parents: Vec::new(), included: None }
    }

    /// Decides on a file, tells `sink` of it and of parents that are sent on its account, and says whether to enter it.
    pub(super) fn visit(&mut self, file: &Candidate<T>, sink: Sink<'_, T>) -> Result<Step, IgnoreError> {
        while self.parents.last().is_some_and(|parent| !file.path.starts_with(&parent.candidate.path)) {
            self.parents.pop();
        }
        let text = file.path.to_string_lossy();
        match self.rules {
            Rules::Tar(version) => self.visit_tar(version, &text, file, sink),
            Rules::Sync(Version::V20) => self.visit_sync_20(&text, file, sink),
            Rules::Sync(Version::V28) => self.visit_sync(&text, file, sink),
        }
    }

    /// `moby/go-archive`, `Tarballer.Do`.
    fn visit_tar(
        &mut self,
        version: Version,
        text: &str,
        file: &Candidate<T>,
        sink: Sink<'_, T>,
    ) -> Result<Step, IgnoreError> {
        let skipped = match version {
            Version::V20 => self.exclude.matches_v20(text)?,
            Version::V28 => {
                let (skipped, exclude) = self.exclude.matches_in(text, &self.parent_info().1)?;
                self.enter(file, MatchInfo::default(), exclude, !skipped);
                skipped
            }
        };
        if !skipped {
            sink(Fate::Sent, file);
            return Ok(Step::EnterIfAllowed);
        }
        let enters = file.is_dir && !self.exclude.can_skip_directory(text, Walk::Archive);
        Ok(if enters { Step::EnterIfAllowed } else { Step::Skip })
    }

    /// `tonistiigi/fsutil`, `filterFS.Walk`.
    fn visit_sync(&mut self, text: &str, file: &Candidate<T>, sink: Sink<'_, T>) -> Result<Step, IgnoreError> {
        sink(Fate::Met, file);
        let (parent_include, parent_exclude) = self.parent_info();
        let mut skipped = false;
        let mut include = MatchInfo::default();
        if let Some(patterns) = self.include {
            let (matched, info) = patterns.matches_in(text, &parent_include)?;
            include = info;
            if !matched {
                if file.is_dir && !may_include_below(patterns, text) {
                    return Ok(Step::Skip);
                }
                skipped = true;
            }
        }
        let (excluded, exclude) = self.exclude.matches_in(text, &parent_exclude)?;
        if excluded {
            if file.is_dir && self.exclude.can_skip_directory(text, Walk::Fsutil) {
                return Ok(Step::Skip);
            }
            skipped = true;
        }
        if !skipped {
            for parent in self.parents.iter_mut().filter(|parent| !parent.sent) {
                parent.sent = true;
                sink(Fate::Sent, &parent.candidate);
            }
            sink(Fate::Sent, file);
        }
        self.enter(file, include, exclude, !skipped);
        Ok(if skipped { Step::EnterIfAllowed } else { Step::Enter })
    }

    /// `tonistiigi/fsutil` of 2020, `Walk`.
    fn visit_sync_20(&mut self, text: &str, file: &Candidate<T>, sink: Sink<'_, T>) -> Result<Step, IgnoreError> {
        let is_within = self.included.as_ref().is_some_and(|included| file.path.starts_with(included));
        if let Some(patterns) = self.include.filter(|_| !is_within) {
            let matched = patterns.patterns().iter().filter_map(|pattern| prefix_match(pattern.as_str(), text)).max();
            match matched {
                None => return Ok(Step::Skip),
                Some(Prefix::Whole) if file.is_dir => self.included = Some(file.path.clone()),
                Some(_) => {}
            }
        }
        let enters = file.is_dir && !self.exclude.can_skip_directory(text, Walk::Archive);
        if !enters && self.exclude.matches_v20(text)? {
            return Ok(Step::Skip);
        }
        sink(Fate::Met, file);
        sink(Fate::Sent, file);
        Ok(Step::Enter)
    }

    fn parent_info(&self) -> (MatchInfo, MatchInfo) {
        self.parents.last().map(|parent| (parent.include.clone(), parent.exclude.clone())).unwrap_or_default()
    }

    fn enter(&mut self, file: &Candidate<T>, include: MatchInfo, exclude: MatchInfo, sent: bool) {
        if file.is_dir {
            self.parents.push(Parent { candidate: file.clone(), include, exclude, sent });
        }
    }
}

/// Whether something in a directory, which is not included itself, may be.
fn may_include_below(patterns: &PatternMatcher, directory: &str) -> bool {
    let prefixes =
        || patterns.patterns().iter().filter(|p| !p.is_exclusion()).map(|p| without_trailing_glob(p.as_str()));
    prefixes().any(|prefix| {
        let leads = prefix.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        leads || prefix.contains(['*', '[', ']', '?', '^', '\\'])
    })
}

/// What a pattern says of everything in a directory is said of the directory.
fn without_trailing_glob(pattern: &str) -> &str {
    let pattern = pattern.strip_suffix("/**").unwrap_or(pattern);
    pattern.strip_suffix("/*").unwrap_or(pattern)
}

/// How a pattern matches a path; the better match is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    /// The path leads to what the pattern names.
    Part,
    /// The path is what the pattern names.
    Whole,
}

/// Matches as many components of the pattern as the path has.
fn prefix_match(pattern: &str, path: &str) -> Option<Prefix> {
    let depth = path.matches('/').count();
    let (pattern, prefix) = match pattern.match_indices('/').nth(depth) {
        Some((at, _)) => (&pattern[..at], Prefix::Part),
        None => (pattern, Prefix::Whole),
    };
    go_match(pattern.as_bytes(), path.as_bytes()).unwrap_or(false).then_some(prefix)
}

/// What of a path the rules leave, judged without looking at files: any path may be a directory.
pub(super) fn judge(rules: Rules, exclude: &PatternMatcher, path: &Path) -> Judgement {
    let mut filter = Filter::new(rules, None, exclude);
    let mut judgement = Judgement::Shown;
    let mut prefix = PathBuf::new();
    for component in path.components() {
        prefix.push(component);
        let candidate = Candidate { path: prefix.clone(), is_dir: true, payload: () };
        let mut sent = false;
        let step = filter.visit(&candidate, &mut |fate, file| sent |= fate == Fate::Sent && file.path == prefix);
        judgement = match step {
            Ok(Step::Skip) => return Judgement::Hidden,
            Ok(_) if !sent => Judgement::Entered,
            // A pattern that cannot be matched is an error of the walk, which comes before any use.
            Ok(_) | Err(_) => Judgement::Shown,
        };
    }
    judgement
}

/// See [`judge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It is sent.
    Shown,
    /// It is not sent, but something in it may be.
    Entered,
    /// Neither it nor anything in it is sent.
    Hidden,
}
