//! What was looked for in vain is looked for in vain as long as no directory of the search has changed, whatever else
//! happens: processes rely on it (`emulate::lookaside`).

use super::{
    super::{FileSystem, Found, Identity, Namespace, NoLinks, Place, Result, Start},
    Subject,
    differential::{USER, apart, become_user, on_host, open, run_all},
    ours::{Ours, root},
    sequence::{self, Random},
};
use crate::{
    emulate::lookaside::{Lookaside, Searched, watch, watched},
    root::FileKind,
};
use rustix::io::Errno;
use std::{fs, os::unix::fs::chown, path::Path};

/// A question, its answer, and what that depends on.
struct Answer {
    /// Where a relative path begins.
    base: Place,
    path: String,
    follow: bool,
    who: Identity,
    error: Errno,
    searched: Searched,
}

/// As a readlink(2) of what is no link.
fn ask(subject: &Ours, base: &Place, path: &str, follow: bool, who: &Identity) -> Result<()> {
    let start = Start { root: &subject.namespace.root(), base, who, proc: &NoLinks };
    match subject.namespace.resolve(&start, path.as_bytes(), follow)? {
        Found::File(place) if !follow && place.file.kind() != FileKind::Symlink => Err(Errno::INVAL),
        Found::Missing { .. } => Err(Errno::NOENT),
        _ => Ok(()),
    }
}

fn layers(base: &Path, random: &mut Random) {
    for name in ["lower0", "lower1", "upper"] {
        let layer = base.join(name);
        fs::create_dir(&layer).unwrap();
        if name != "upper" {
            let ops: Vec<_> = sequence::layer(random).into_iter().map(|op| (0, op)).collect();
            run_all(&mut on_host(&layer), &ops);
        }
    }
}

/// Runs a sequence on an overlay; how often an answer was still good.
fn check(seed: u64, length: usize) -> usize {
    let base = tempfile::Builder::new().prefix("rbuild-vain-").tempdir().unwrap();
    chown(base.path(), Some(USER), Some(USER)).ok();
    apart(|| {
        if rustix::process::geteuid().is_root() {
            become_user();
        }
        let mut random = Random::new(seed);
        layers(base.path(), &mut random);
        let lower = ["lower0", "lower1"].map(|name| open(&base.path().join(name))).into();
        let upper = Some(open(&base.path().join("upper")));
        let mut subject = Ours { namespace: Namespace::new(FileSystem::Overlay { lower, upper }).unwrap() };
        let users = [root(), Identity { uid: 33, gid: 33, ..Identity::default() }];
        let mut answers: Vec<Answer> = Vec::new();
        let mut good = 0;
        for _ in 0..length {
            for _ in 0..8 {
                let mut path = random.path();
                if random.below(3) == 0 {
                    path = format!("{path}/..{}", random.path());
                }
                let mut base = subject.namespace.root();
                if let (0, Ok(place)) = (random.below(3), subject.find(&random.path(), true, &root()))
                    && place.is_dir()
                {
                    base = place;
                    path = format!("{}{path}", ["..", "."][random.below(2)]);
                }
                let (follow, who) = (random.below(2) == 0, users[random.below(2)].clone());
                watch();
                let answer = ask(&subject, &base, &path, follow, &who);
                let searched = watched();
                if let (Err(error @ (Errno::NOENT | Errno::NOTDIR | Errno::INVAL)), Some(searched)) = (answer, searched)
                {
                    answers.push(Answer { base, path, follow, who, error, searched });
                }
            }
            let op = sequence::op(&mut random);
            let _ = subject.run(&op, if random.below(8) == 0 { 33 } else { 0 });
            answers.retain(|answer| answer.searched.holds());
            for Answer { base, path, follow, who, error, .. } in &answers {
                let now = ask(&subject, base, path, *follow, who);
                assert_eq!(now, Err(*error), "seed {seed}, {path} after {op:?}");
            }
            good += answers.len();
        }
        good
    })
}

#[test]
fn what_was_looked_for_in_vain_is_not_there_until_something_changes() {
    let _lookaside = Lookaside::new().unwrap();
    let count = std::env::var("RBUILD_VFS_SEQUENCES").ok().and_then(|count| count.parse().ok()).unwrap_or(100);
    let good: usize = (0..count).map(|seed| check(seed, 60)).sum();
    assert!(good > 100 * usize::try_from(count).unwrap(), "{good} answers were good for longer");
}
