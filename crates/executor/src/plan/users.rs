//! USER and `--chown`: names and numbers against the image's passwd and group files, as runc and Docker resolve them.

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group id.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Home directory; `/` for a user the image does not know.
    pub(crate) home: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: Vec<&'a str>,
}

/// Highest id that Docker takes.
const MAX_ID: u32 = i32::MAX as u32;

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?;
        let (_, uid, gid) = (fields.next()?, fields.next()?, fields.next().unwrap_or_default());
        let home = fields.nth(1).unwrap_or_default();
        Some(Passwd { name, uid: uid.parse().ok()?, gid: gid.parse().unwrap_or(0), home })
    })
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?;
        let (_, gid) = (fields.next()?, fields.next()?);
        let members = fields.next().unwrap_or_default().split(',').filter(|m| !m.is_empty()).collect();
        Some(Group { name, gid: gid.parse().ok()?, members })
    })
}

/// Resolves the value of USER (`name|uid[:group|gid]`, empty for root) with the texts of the image's `/etc/passwd` and
/// `/etc/group`, following `user.GetExecUser` of moby/sys.
///
/// # Errors
/// Docker's text (`unable to find user x: no matching entries in passwd file`).
pub(crate) fn exec_user(spec: &str, passwd_text: &str, group_text: &str) -> Result<Identity, String> {
    let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
    let mut identity = Identity { uid: 0, gid: 0, groups: Vec::new(), home: "/".to_owned() };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<i64>().ok();
    let entry = passwd(passwd_text).find(|p| p.name == user || number == Some(i64::from(p.uid)));
    let mut name = None;
    match (entry, number) {
        (Some(entry), _) => {
            (identity.uid, identity.gid) = (entry.uid, entry.gid);
            identity.home = entry.home.to_owned();
            name = Some(entry.name);
        }
        (None, Some(number)) => identity.uid = checked(number)?,
        (None, None) => return Err(format!("unable to find user {user}: no matching entries in passwd file")),
    }
    if group.is_empty() {
        if let Some(name) = name {
            identity.groups = groups(group_text).filter(|g| g.members.contains(&name)).map(|g| g.gid).collect();
        }
    } else {
        let number = group.parse::<i64>().ok();
        let entry = groups(group_text).find(|g| g.name == group || number == Some(i64::from(g.gid)));
        identity.gid = match (entry, number) {
            (Some(entry), _) => entry.gid,
            (None, Some(number)) => checked(number)?,
            (None, None) => return Err(format!("unable to find group {group}: no matching entries in group file")),
        };
    }
    Ok(identity)
}

fn checked(number: i64) -> Result<u32, String> {
    u32::try_from(number)
        .ok()
        .filter(|n| *n <= MAX_ID)
        .ok_or_else(|| format!("uids and gids must be in range 0-{MAX_ID}"))
}

/// The home directory that a runtime puts into HOME for a user id.
pub(crate) fn home_of(uid: u32, passwd_text: &str) -> String {
    passwd(passwd_text).find(|p| p.uid == uid).map_or_else(|| "/".to_owned(), |p| p.home.to_owned())
}

/// Why the value of `--chown` names nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChownError {
    /// More than one colon.
    Format(String),
    /// No such user.
    User(String),
    /// No such group.
    Group(String),
}

/// Resolves `--chown=user[:group]`: a name or a number; without a group, the group has the user's number or name
/// (moby `builder/dockerfile/internals_linux.go`).
///
/// # Errors
/// What could not be found.
pub(crate) fn chown(spec: &str, passwd_text: &str, group_text: &str) -> Result<(u32, u32), ChownError> {
    let (user, group) = match spec.split(':').collect::<Vec<_>>().as_slice() {
        [user] => (*user, None),
        [user, group] => (*user, Some(*group)),
        _ => return Err(ChownError::Format(spec.to_owned())),
    };
    let group = group.unwrap_or(user);
    let id = |text: &str| text.parse::<u32>().ok().filter(|n| *n <= MAX_ID);
    let uid = match id(user) {
        Some(uid) => uid,
        None => passwd(passwd_text)
            .find(|p| p.name == user)
            .map(|p| p.uid)
            .ok_or_else(|| ChownError::User(user.to_owned()))?,
    };
    let gid = match id(group) {
        Some(gid) => gid,
        None => groups(group_text)
            .find(|g| g.name == group)
            .map(|g| g.gid)
            .ok_or_else(|| ChownError::Group(group.to_owned()))?,
    };
    Ok((uid, gid))
}

/// Resolves `--chown=user[:group]` and the user of WORKDIR as BuildKit 0.25 does (`solver/llbsolver/ops/user_linux.go`):
/// a number is user and group, a name brings its primary group, and names that the image does not know are root.
pub(crate) fn chown_buildkit(spec: &str, passwd_text: &str, group_text: &str) -> (u32, u32) {
    let id = buildkit_id;
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let (uid, mut gid) = match id(user) {
        Some(number) => (number, number),
        None => passwd(passwd_text).find(|p| p.name == user).map_or((0, 0), |p| (p.uid, p.gid)),
    };
    if let Some(group) = group {
        match id(group) {
            Some(number) => gid = number,
            None => {
                if let Some(entry) = groups(group_text).find(|g| g.name == group) {
                    gid = entry.gid;
                }
            }
        }
    }
    (uid, gid)
}

/// What BuildKit's client makes a number of.
fn buildkit_id(text: &str) -> Option<u32> {
    if text == "root" { Some(0) } else { text.parse::<i32>().ok().map(|n| n.max(0).unsigned_abs()) }
}

/// Whether BuildKit has to look up a name for an owner.
pub(crate) fn has_names(spec: &str) -> bool {
    !spec.is_empty() && spec.split(':').any(|name| buildkit_id(name).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n# note\nbroken\n";
    const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwheel:x:10:root,daemon\nwww-data:x:33:\n";

    #[test]
    fn names_numbers_and_groups() {
        let daemon = exec_user("daemon", PASSWD, GROUP).unwrap();
        assert_eq!((daemon.uid, daemon.gid, daemon.home.as_str()), (1, 1, "/usr/sbin"));
        assert_eq!(daemon.groups, [10]);
        let mixed = exec_user("1234:www-data", PASSWD, GROUP).unwrap();
        assert_eq!((mixed.uid, mixed.gid, mixed.home.as_str()), (1234, 33, "/"));
        assert_eq!(exec_user("", PASSWD, GROUP).unwrap().uid, 0);
        assert_eq!(exec_user("7", "", "").unwrap().uid, 7);
    }

    #[test]
    fn unknown_names() {
        let error = exec_user("nosuchuser", PASSWD, GROUP).unwrap_err();
        assert_eq!(error, "unable to find user nosuchuser: no matching entries in passwd file");
        let error = exec_user("root:nosuch", PASSWD, GROUP).unwrap_err();
        assert_eq!(error, "unable to find group nosuch: no matching entries in group file");
        assert!(exec_user("99999999999", PASSWD, GROUP).is_err());
    }

    #[test]
    fn chown_takes_the_group_of_the_same_name() {
        assert_eq!(chown("daemon", PASSWD, GROUP), Ok((1, 1)));
        assert_eq!(chown("5", PASSWD, GROUP), Ok((5, 5)));
        assert_eq!(chown("daemon:33", PASSWD, GROUP), Ok((1, 33)));
        assert_eq!(chown("root:x", PASSWD, GROUP), Err(ChownError::Group("x".to_owned())));
        assert_eq!(chown_buildkit("daemon", PASSWD, GROUP), (1, 1));
        assert_eq!(chown_buildkit("nosuch:33", PASSWD, GROUP), (0, 33));
        assert_eq!(chown_buildkit("1234", PASSWD, GROUP), (1234, 1234));
        assert_eq!(chown("a:b:c", PASSWD, GROUP), Err(ChownError::Format("a:b:c".to_owned())));
    }
}
