//! The caller's side of working containers.

use std::io::{BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rbuild_image::store::Store;

use super::commit::{CommitRequest, parse_names};
use super::configure::{ConfigChange, apply};
use super::copy::{CopyRequest, From};
use super::create::CreateRequest;
use super::options::{CommitOptions, Committed, ContainerSummary, CopyOptions, CreateOptions, Created};
use super::state::{self, check_name, isolation_of};
use super::worker::{Reply, Request};
use crate::manage::ManageError;
use crate::options::{Isolation, RegistryAccess, StoreOptions};
use crate::run::{self, PullPolicy, RunControl, RunError, RunFact, RunOptions, begin, died, find_image, lost};
use crate::worker::{sandbox_isolation, worker_options};

/// The name that no image has.
const SCRATCH: &str = "scratch";

/// The longest ignore file.
const IGNORE_MAX: u64 = 16 << 20;

type Observer<'a> = &'a mut dyn FnMut(&RunFact);

/// Begins a working container. The image is pulled where [`CreateOptions::pull`] says so; `observer` hears of it.
///
/// # Errors
/// Where the image cannot be had, or the name is none or taken.
pub fn create(options: CreateOptions, control: &RunControl, observer: Observer<'_>) -> Result<Created, RunError> {
    if let Some(name) = &options.name {
        check_name(name)?;
    }
    let image_id = match options.image.as_str() {
        SCRATCH => None,
        image => {
            let wanted = Wanted {
                store: &options.store,
                registry: &options.registry,
                platform: options.platform.clone(),
                pull: options.pull,
            };
            Some(wanted.find(image, control, observer)?)
        }
    };
    let request = Request::Create(CreateRequest {
        store: options.store.clone(),
        image_name: options.image,
        image_id,
        name: options.name,
        platform: options.platform,
    });
    match ask(&options.store, options.isolation, "", request, control, observer)? {
        Reply::Created(created) => Ok(created),
        _ => Err(other_answer()),
    }
}

/// Copies files into a working container, and gives the digest of what was copied: 64 hexadecimal digits, the same for the
/// same names, attributes and contents.
///
/// # Errors
/// Where a source is not there or cannot be read, or the container is not there or cannot be written. What was copied until
/// then stays.
pub fn copy(options: CopyOptions, control: &RunControl, observer: Observer<'_>) -> Result<String, RunError> {
    let CopyOptions { store, registry, container, mut sources, dest, chown, chmod, add, .. } = options;
    let isolation = isolation_of(&store, &container, options.isolation)?;
    if sources.is_empty() {
        return Err(RunError::refused("there is nothing to copy"));
    }
    if options.from.is_some() && options.context_dir.is_some() {
        return Err(RunError::refused("sources lie either in an image or in a context directory"));
    }
    let from = match (options.from, options.context_dir) {
        (Some(from), _) if is_container(&store, &from)? => From::Container(from),
        (Some(from), _) => {
            let wanted = Wanted { store: &store, registry: &registry, platform: None, pull: options.pull };
            From::Image(wanted.find(&from, control, observer)?)
        }
        (None, Some(dir)) => {
            let ignore = options.ignore_file.as_deref().map(read_ignore).transpose()?.unwrap_or_default();
            let dir = std::fs::canonicalize(&dir).map_err(|error| cannot("find", &dir, &error))?;
            if !dir.is_dir() {
                return Err(RunError::refused(format!("the context `{}` is no directory", dir.display())));
            }
            From::Context { dir, ignore }
        }
        (None, None) if options.ignore_file.is_some() => {
            return Err(RunError::Refused {
                message: "an ignore file belongs to a context directory".to_owned(),
                hint: Some("name the directory with --contextdir".to_owned()),
            });
        }
        (None, None) => {
            for source in &mut sources {
                *source = absolute(source)?;
            }
            From::Host
        }
    };
    let request = CopyRequest {
        store: store.clone(),
        registry,
        container: container.clone(),
        sources,
        dest,
        from,
        chown,
        chmod,
        add,
    };
    match ask(&store, isolation, &container, Request::Copy(Box::new(request)), control, observer)? {
        Reply::Copied(digest) => Ok(digest),
        _ => Err(other_answer()),
    }
}

/// Changes the configuration of a working container: all of it, or nothing where one change is refused.
///
/// # Errors
/// Where the container is not there, or a change makes no sense.
pub fn configure(
    store: &StoreOptions,
    container: &str,
    changes: &[ConfigChange],
    control: &RunControl,
    observer: Observer<'_>,
) -> Result<(), RunError> {
    let store = Store::open(&store.root).map_err(ManageError::from)?;
    state::load(&store, container)?;
    let mut waiting = || observer(&RunFact::Waiting { container: container.to_owned() });
    let _lock = state::lock(&store, container, &|| control.is_cancelled(), &mut waiting)?;
    let mut state = state::load(&store, container)?;
    for change in changes {
        apply(&mut state, change)?;
    }
    store.write_container(&store.container_dir(container), &state).map_err(ManageError::from)?;
    Ok(())
}

/// Makes an image of a working container: the layers of its base, and one for all that was changed since [`create`], if
/// anything was. The container stays as it is.
///
/// # Errors
/// Where the container is not there, a name is none, or there is no room.
pub fn commit(options: CommitOptions, control: &RunControl, observer: Observer<'_>) -> Result<Committed, RunError> {
    let CommitOptions { store, container, names, source_date_epoch, squash, isolation } = options;
    parse_names(&names)?;
    let isolation = isolation_of(&store, &container, isolation)?;
    let request =
        CommitRequest { store: store.clone(), container: container.clone(), names, source_date_epoch, squash };
    match ask(&store, isolation, &container, Request::Commit(request), control, observer)? {
        Reply::Committed(committed) => Ok(committed),
        _ => Err(other_answer()),
    }
}

/// Removes a working container. The layers that only it lay on go with the next collection.
///
/// # Errors
/// Where it is not there or cannot be removed.
pub fn remove(
    store: &StoreOptions,
    container: &str,
    control: &RunControl,
    observer: Observer<'_>,
) -> Result<(), RunError> {
    let isolation = isolation_of(store, container, Isolation::Auto)?;
    let request = Request::Remove { store: store.clone(), container: container.to_owned() };
    match ask(store, isolation, container, request, control, observer)? {
        Reply::Removed => Ok(()),
        _ => Err(other_answer()),
    }
}

/// Lists the working containers of a store, by name.
///
/// # Errors
/// Where the store cannot be read.
pub fn list(store: &StoreOptions) -> Result<Vec<ContainerSummary>, RunError> {
    let store = Store::open(&store.root).map_err(ManageError::from)?;
    let mut all = Vec::new();
    for name in store.container_names().map_err(ManageError::from)? {
        let state = match state::load(&store, &name) {
            Ok(state) => state,
            // It was just removed.
            Err(_) if !store.container_dir(&name).exists() => continue,
            Err(error) => return Err(error),
        };
        let config = serde_json::to_value(&state.config)
            .map_err(|error| RunError::refused(format!("cannot show the configuration of `{name}`: {error}")))?;
        all.push(ContainerSummary {
            name,
            image_name: state.image_name,
            image_id: state.image_id,
            created: state.created,
            isolation: state.isolation,
            config,
        });
    }
    Ok(all)
}

/// An image that is asked for, in the store or of a registry.
struct Wanted<'a> {
    store: &'a StoreOptions,
    registry: &'a RegistryAccess,
    platform: Option<String>,
    pull: PullPolicy,
}

impl Wanted<'_> {
    /// Its id; from now on it is in the store.
    fn find(self, image: &str, control: &RunControl, observer: Observer<'_>) -> Result<String, RunError> {
        let mut options = RunOptions::new(self.store.root.clone(), image);
        options.registry = self.registry.clone();
        options.platform = self.platform;
        options.pull = self.pull;
        find_image(&options, control, observer)
    }
}

/// Whether a name is one of a working container, and not of an image.
fn is_container(store: &StoreOptions, name: &str) -> Result<bool, RunError> {
    let store = Store::open(&store.root).map_err(ManageError::from)?;
    Ok(store.container_names().map_err(ManageError::from)?.iter().any(|known| known == name))
}

/// A path of the caller's, whole; one that ends in a slash says something with it.
fn absolute(source: &str) -> Result<String, RunError> {
    if source.starts_with("http://") || source.starts_with("https://") {
        return Ok(source.to_owned());
    }
    let mut path = std::path::absolute(source).map_err(|error| cannot("find", Path::new(source), &error))?;
    if source.ends_with('/') {
        path.push("");
    }
    // Both parts are text.
    Ok(String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned())
}

fn read_ignore(path: &Path) -> Result<Vec<String>, RunError> {
    let file = std::fs::File::open(path).map_err(|error| cannot("read", path, &error))?;
    let mut bytes = Vec::new();
    BufReader::new(file).take(IGNORE_MAX).read_to_end(&mut bytes).map_err(|error| cannot("read", path, &error))?;
    rbuild_parser::ignore::parse_ignore_file(&bytes)
        .map_err(|error| RunError::refused(format!("the ignore file `{}` is wrong: {error}", path.display())))
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> RunError {
    RunError::refused(format!("cannot {action} `{}`: {error}", path.display()))
}

fn other_answer() -> RunError {
    RunError::Worker { message: "it did something else".to_owned(), hint: None }
}

/// Has a worker do something.
fn ask(
    store: &StoreOptions,
    isolation: Isolation,
    container: &str,
    request: Request,
    control: &RunControl,
    observer: Observer<'_>,
) -> Result<Reply, RunError> {
    let mut spawn = worker_options(store, run::ENTRY.0);
    spawn.isolation = sandbox_isolation(isolation);
    spawn.stderr = std::io::stderr().as_fd().try_clone_to_owned().ok();
    let mut worker = begin(spawn, &run::Request::Container(Box::new(request)), control)?;
    let mut answer = None;
    let end = loop {
        match worker.recv::<run::Reply>().map_err(|error| lost(&error))? {
            Some(run::Reply::Container(reply)) => answer = Some(*reply),
            Some(run::Reply::Waiting) => observer(&RunFact::Waiting { container: container.to_owned() }),
            Some(run::Reply::End(end)) => break Some(end),
            Some(_) => {}
            None => break None,
        }
    };
    let status = worker.wait();
    control.detach();
    match (end, answer) {
        (Some(Ok(_)), Some(answer)) => Ok(answer),
        (Some(Ok(_)), None) => Err(other_answer()),
        (Some(Err(failed)), _) => Err(failed.into()),
        (None, _) => Err(died(store, status, control)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_caller() {
        let here = std::env::current_dir().unwrap().to_str().unwrap().to_owned();
        assert_eq!(absolute("a").unwrap(), format!("{here}/a"));
        assert_eq!(absolute("./a/").unwrap(), format!("{here}/a/"));
        assert_eq!(absolute("/a/*").unwrap(), "/a/*");
        assert_eq!(absolute("https://x/a").unwrap(), "https://x/a");
        assert!(absolute("").is_err());
    }
}
