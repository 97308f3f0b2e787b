//! Logging in to registries and out of them.

use std::sync::atomic::AtomicBool;

use rbuild_image::registry::{Credential, DOCKER_HUB_SERVER, DockerConfig, Secret};

use super::{ManageError, registry};
use crate::RegistryAccess;

/// Where credentials were put.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// A credential helper has them.
    Helper(String),
    /// Docker's configuration has them, readable.
    File(std::path::PathBuf),
}

/// The name under which Docker keeps a server: docker.io under one of its own, others by host.
pub fn server_name(server: Option<&str>) -> String {
    let Some(server) = server.map(str::trim).filter(|server| !server.is_empty()) else {
        return DOCKER_HUB_SERVER.to_owned();
    };
    let host = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let host = host.split('/').next().unwrap_or(host);
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB_SERVER.to_owned(),
        host => host.to_owned(),
    }
}

/// Proves user name and password to a server and keeps them, as `docker login` does: in the credential helper of Docker's
/// configuration for that server if there is one, else in that file. An identity token that the server gives takes the
/// password's place.
///
/// # Errors
/// [`ManageError::Registry`] if the server refuses or cannot be reached, [`ManageError::NoConfig`] and
/// [`ManageError::Credentials`] if the credentials cannot be kept. No error has the password in it.
pub fn login(
    access: &RegistryAccess,
    server: Option<&str>,
    username: &str,
    password: &str,
    cancel: &AtomicBool,
) -> Result<Kept, ManageError> {
    let server = server_name(server);
    let config = access.docker_config.as_ref().ok_or(ManageError::NoConfig)?;
    let failed = |source| match source {
        rbuild_image::registry::RegistryError::Cancelled => ManageError::Cancelled,
        source => ManageError::Registry { action: "log in to", name: server.clone(), source: Box::new(source) },
    };
    let credential = Credential::Password { username: username.to_owned(), password: Secret::new(password) };
    let registry = registry(access).map_err(failed)?;
    let token = registry.login(&server, &credential, cancel).map_err(failed)?;
    let credential = token.map_or(credential, Credential::IdentityToken);
    let helper = DockerConfig::new(config).store(&server, &credential).map_err(|source| ManageError::Credentials {
        action: "keep",
        server: server.clone(),
        source,
    })?;
    Ok(helper.map_or_else(|| Kept::File(config.clone()), Kept::Helper))
}

/// Forgets the credentials of a server. Returns whether there were any.
///
/// # Errors
/// [`ManageError::NoConfig`] and [`ManageError::Credentials`].
pub fn logout(access: &RegistryAccess, server: Option<&str>) -> Result<bool, ManageError> {
    let server = server_name(server);
    let config = access.docker_config.as_ref().ok_or(ManageError::NoConfig)?;
    DockerConfig::new(config).erase(&server).map_err(|source| ManageError::Credentials {
        action: "forget",
        server,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        for (given, want) in [
            (None, DOCKER_HUB_SERVER),
            (Some(""), DOCKER_HUB_SERVER),
            (Some("docker.io"), DOCKER_HUB_SERVER),
            (Some("https://index.docker.io/v1/"), DOCKER_HUB_SERVER),
            (Some("127.0.0.1:5000"), "127.0.0.1:5000"),
            (Some("https://registry.example.com/v2/"), "registry.example.com"),
        ] {
            assert_eq!(server_name(given), want, "{given:?}");
        }
    }

    #[test]
    fn no_place_for_credentials() {
        let access = RegistryAccess::default();
        let error = login(&access, None, "u", "hunter2", &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(error, ManageError::NoConfig));
        assert!(matches!(logout(&access, None), Err(ManageError::NoConfig)));
    }

    #[test]
    fn nothing_to_forget() {
        let access =
            RegistryAccess { docker_config: Some("/nonexistent/config.json".into()), ..RegistryAccess::default() };
        assert!(!logout(&access, Some("h")).unwrap());
    }

    #[test]
    fn the_password_is_in_no_error() {
        let access =
            RegistryAccess { docker_config: Some("/nonexistent/config.json".into()), ..RegistryAccess::default() };
        // Port 1 of the loopback is closed: the connection is refused.
        let error = login(&access, Some("127.0.0.1:1"), "u", "hunter2", &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(error, ManageError::Registry { .. }), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }
}
