//! Which host serves a reference, and how it may be reached.

use std::net::IpAddr;

use reqwest::Url;

use crate::reference::{DEFAULT_DOMAIN, Reference};

use super::credentials::{DOCKER_HUB_SERVER, hostname_of};
use super::error::RegistryError;
use super::options::RegistryOptions;

/// The host behind the name docker.io.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// The name under which Docker keeps credentials for a server as a user writes it: without scheme and path, and
/// [`DOCKER_HUB_SERVER`] for docker.io by any of its names, or for none.
pub fn credential_server(server: &str) -> &str {
    match hostname_of(server) {
        "" | "docker.io" | "index.docker.io" | DOCKER_HUB_HOST => DOCKER_HUB_SERVER,
        host => host,
    }
}

/// A host that serves an API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `HOST` or `HOST:PORT`.
    pub(super) host: String,
    /// The scheme, if it is not to be found out.
    pub(super) scheme: Option<Scheme>,
    /// What comes before `/v2/`, without a slash at its end.
    pub(super) prefix: String,
    /// The name under which credentials are kept.
    pub(super) server: String,
    /// Whether it is a mirror, whose failure is not final.
    pub(super) mirror: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// The rules of the options, parsed.
pub(super) struct Endpoints {
    mirrors: Vec<Endpoint>,
    insecure: Vec<Insecure>,
}

enum Insecure {
    Host(String),
    Network(IpAddr, u32),
}

impl Endpoints {
    pub(super) fn new(options: &RegistryOptions) -> Result<Endpoints, RegistryError> {
        let mirrors = options.mirrors.iter().map(|text| mirror(text)).collect::<Result<_, _>>()?;
        let insecure = options.insecure.iter().map(|text| insecure(text)).collect::<Result<_, _>>()?;
        Ok(Endpoints { mirrors, insecure })
    }

    /// Where to ask for a reference's content, in order.
    pub(super) fn for_pull(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistryError> {
        let mut all = if reference.domain() == DEFAULT_DOMAIN { self.mirrors.clone() } else { Vec::new() };
        all.push(self.for_push(reference)?);
        Ok(all)
    }

    /// The registry that a reference names.
    pub(super) fn for_push(&self, reference: &Reference) -> Result<Endpoint, RegistryError> {
        if reference.domain().is_empty() {
            return Err(RegistryError::Option {
                option: "reference",
                value: reference.to_string(),
                problem: "it names no registry".to_owned(),
            });
        }
        self.for_server(reference.domain())
    }

    /// The registry of a server as a user names it; docker.io by any of its names.
    pub(super) fn for_server(&self, server: &str) -> Result<Endpoint, RegistryError> {
        let key = credential_server(server);
        let host = if key == DOCKER_HUB_SERVER { DOCKER_HUB_HOST } else { key };
        let endpoint = Endpoint {
            host: host.to_owned(),
            scheme: (!self.is_insecure(host)).then_some(Scheme::Https),
            prefix: String::new(),
            server: key.to_owned(),
            mirror: false,
        };
        let broken = |problem: String| RegistryError::Option { option: "registry", value: host.to_owned(), problem };
        let url = endpoint.base(Scheme::Https).map_err(|error| broken(error.to_string()))?;
        if url.path() != "/v2/" || !url.username().is_empty() || url.query().is_some() || url.fragment().is_some() {
            return Err(broken("it must be HOST or HOST:PORT".to_owned()));
        }
        Ok(endpoint)
    }

    /// Whether a host (`HOST` or `HOST:PORT`) may go unverified and in clear text. The loopback may, as in Docker.
    pub(super) fn is_insecure(&self, host: &str) -> bool {
        let name = without_port(host);
        let address: Option<IpAddr> = name.trim_start_matches('[').trim_end_matches(']').parse().ok();
        let loopback = match address {
            Some(address) => address.is_loopback(),
            None => name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost"),
        };
        loopback
            || self.insecure.iter().any(|rule| match rule {
                Insecure::Host(rule) => rule.eq_ignore_ascii_case(host) || rule.eq_ignore_ascii_case(name),
                Insecure::Network(network, bits) => address.is_some_and(|address| is_within(address, *network, *bits)),
            })
    }
}

impl Endpoint {
    /// `SCHEME://HOST/PREFIX/v2/`.
    pub(super) fn base(&self, scheme: Scheme) -> Result<Url, impl std::fmt::Display + use<>> {
        Url::parse(&format!("{}://{}{}/v2/", scheme.name(), self.host, self.prefix))
    }
}

fn mirror(text: &str) -> Result<Endpoint, RegistryError> {
    let broken = |problem: &str| RegistryError::Option {
        option: "mirror",
        value: Url::parse(text).map(|url| super::error::redact(&url)).unwrap_or_else(|_| text.to_owned()),
        problem: problem.to_owned(),
    };
    let url = Url::parse(text).map_err(|error| broken(&error.to_string()))?;
    let scheme = match url.scheme() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return Err(broken("a mirror begins with http:// or https://")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(broken("a mirror holds no user and password"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(broken("a mirror has neither query nor fragment"));
    }
    let host = url.host_str().ok_or_else(|| broken("no host"))?;
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let prefix = url.path().trim_end_matches('/').to_owned();
    Ok(Endpoint { server: host.clone(), host, scheme: Some(scheme), prefix, mirror: true })
}

fn insecure(text: &str) -> Result<Insecure, RegistryError> {
    let broken = |problem: &str| RegistryError::Option {
        option: "insecure registry",
        value: text.to_owned(),
        problem: problem.to_owned(),
    };
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
    let host = host.strip_suffix('/').unwrap_or(host);
    if host.is_empty() {
        return Err(broken("no host"));
    }
    let Some((address, bits)) = host.split_once('/') else {
        return Ok(Insecure::Host(host.to_owned()));
    };
    let address: IpAddr = address.parse().map_err(|_| broken("neither HOST[:PORT] nor a network"))?;
    let bits: u32 = bits.parse().map_err(|_| broken("the length of the network is no number"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if bits > most {
        return Err(broken("the network is longer than an address"));
    }
    Ok(Insecure::Network(address, bits))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (a, n, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(u32::from(a)), u128::from(u32::from(n)), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (u128::from(a), u128::from(n), 128),
        _ => return false,
    };
    let shift = width - bits;
    (a ^ n).checked_shr(shift).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(insecure: &[&str], mirrors: &[&str]) -> Result<Endpoints, RegistryError> {
        let texts = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect();
        Endpoints::new(&RegistryOptions { insecure: texts(insecure), mirrors: texts(mirrors), ..Default::default() })
    }

    #[test]
    fn the_loopback_and_what_is_declared_is_insecure() {
        let e = endpoints(&["reg.example:5000", "other.example", "10.1.0.0/16", "fd00::/8"], &[]).unwrap();
        for yes in [
            "localhost",
            "LOCALHOST:5000",
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:5000",
            "reg.example:5000",
            "other.example:1",
            "other.example",
            "10.1.2.3:5000",
            "[fd12::1]:443",
        ] {
            assert!(e.is_insecure(yes), "{yes}");
        }
        for no in ["reg.example", "10.2.0.1", "docker.io", "localhost.example", "[fe80::1]:1", "128.0.0.1"] {
            assert!(!e.is_insecure(no), "{no}");
        }
        assert!(endpoints(&["0.0.0.0/0"], &[]).unwrap().is_insecure("8.8.8.8"));
    }

    #[test]
    fn docker_io_has_mirrors_and_its_own_host() {
        let e = endpoints(&[], &["http://m.example:5000", "https://n.example/hub/"]).unwrap();
        let hub: Reference = "busybox".parse().unwrap();
        let all = e.for_pull(&hub).unwrap();
        let hosts: Vec<_> = all.iter().map(|e| (e.host.as_str(), e.prefix.as_str(), e.scheme, e.mirror)).collect();
        assert_eq!(
            hosts,
            [
                ("m.example:5000", "", Some(Scheme::Http), true),
                ("n.example", "/hub", Some(Scheme::Https), true),
                ("registry-1.docker.io", "", Some(Scheme::Https), false),
            ]
        );
        assert_eq!(all[2].server, DOCKER_HUB_SERVER);
        assert_eq!(e.for_pull(&"localhost:5000/a".parse().unwrap()).unwrap().len(), 1);
        assert_eq!(e.for_push(&"localhost:5000/a".parse().unwrap()).unwrap().scheme, None);
    }

    #[test]
    fn a_server_has_one_name_for_its_credentials() {
        for hub in ["", "docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"] {
            assert_eq!(credential_server(hub), DOCKER_HUB_SERVER, "{hub}");
        }
        for other in ["h.example:5000", "https://h.example:5000", "http://h.example:5000/v2/"] {
            assert_eq!(credential_server(other), "h.example:5000", "{other}");
        }
    }

    #[test]
    fn unusable_options_are_refused() {
        for mirror in ["m.example", "ftp://m", "http://me:pw@m", "http://m?x=1", ""] {
            let error = endpoints(&[], &[mirror]).err().unwrap();
            assert!(!error.to_string().contains("pw"), "{error}");
        }
        for insecure in ["", "10.0.0.0/33", "a/8", "10.0.0.0/x"] {
            assert!(endpoints(&[insecure], &[]).is_err(), "{insecure}");
        }
        for server in ["me@h", "h?x", "h#x", "h:port"] {
            assert!(endpoints(&[], &[]).unwrap().for_server(server).is_err(), "{server}");
        }
    }
}
