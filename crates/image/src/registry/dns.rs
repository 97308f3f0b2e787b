//! Host names to addresses without the C library: a static binary has no NSS.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::error::ResolveProblem;

/// More of a hosts file is not read, in bytes.
const HOSTS_SIZE: u64 = 4 << 20;

/// A resolver and its name servers, `address:port`.
type Built = (TokioResolver, Vec<String>);

/// Resolves by `/etc/hosts`, then by the name servers of `/etc/resolv.conf`.
///
/// `localhost` and names below it are always the loopback (RFC 6761), so that a local registry works with no such files.
/// With no readable `resolv.conf` the name server is this machine's, as in Go and in the C library.
#[derive(Clone, Default)]
pub(super) struct SystemResolver {
    // Built at the first use: the resolver wants to live inside the runtime, and a broken file must not break IP literals.
    inner: Arc<OnceLock<Result<Built, NetError>>>,
}

/// The error that this resolver gives reqwest, found again in the chain of causes.
#[derive(Debug, Clone, thiserror::Error)]
#[error("lookup {host}: {problem}")]
pub(super) struct LookupError {
    pub(super) host: String,
    pub(super) servers: Vec<String>,
    pub(super) problem: ResolveProblem,
}

impl SystemResolver {
    fn get(&self) -> Result<&Built, NetError> {
        self.inner.get_or_init(build).as_ref().map_err(Clone::clone)
    }
}

fn build() -> Result<Built, NetError> {
    let provider = TokioRuntimeProvider::default();
    let (config, options) = read_system_conf().unwrap_or_else(|_| {
        let local = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let servers = local.into_iter().map(NameServerConfig::udp_and_tcp).collect();
        // A server on this machine answers soon or never.
        let mut options = ResolverOpts::default();
        (options.timeout, options.attempts) = (Duration::from_secs(1), 1);
        (ResolverConfig::from_name_servers(servers), options)
    });
    let servers = config.name_servers().iter().map(|server| SocketAddr::new(server.ip, 53).to_string()).collect();
    let mut builder = TokioResolver::builder_with_config(config, provider);
    *builder.options_mut() = options;
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // The resolver would still ask the servers for the other family, and wait in vain where there are none.
    builder.options_mut().use_hosts_file = ResolveHosts::Never;
    Ok((builder.build()?, servers))
}

/// The addresses that the hosts file has for a name in lower case. A file that cannot be read has none.
fn read_hosts(path: &Path, host: &str) -> Vec<IpAddr> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HOSTS_SIZE).read_to_end(&mut text));
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&text);
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
            continue;
        };
        if words.any(|name| name.eq_ignore_ascii_case(host)) {
            found.push(address);
        }
    }
    found
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let host = name.as_str().trim_end_matches('.').to_ascii_lowercase();
            if host == "localhost" || host.ends_with(".localhost") {
                let local = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                return Ok(Box::new(local.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs);
            }
            let named = tokio::task::spawn_blocking({
                let host = host.clone();
                move || read_hosts(Path::new("/etc/hosts"), &host)
            });
            let named = named.await.unwrap_or_default();
            if !named.is_empty() {
                return Ok(Box::new(named.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs);
            }
            let failed = |servers: &[String], error: NetError| {
                let problem = match &error {
                    NetError::Timeout => ResolveProblem::Timeout,
                    error if error.is_no_records_found() => ResolveProblem::NoSuchHost,
                    error => ResolveProblem::Failed(error.to_string()),
                };
                LookupError { host: host.clone(), servers: servers.to_vec(), problem }
            };
            let (inner, servers) = resolver.get().map_err(|error| failed(&[], error))?;
            let found = inner.lookup_ip(name.as_str()).await.map_err(|error| failed(servers, error))?;
            let addresses: Vec<SocketAddr> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let text =
            "# c\n10.0.0.1 Reg.Example alias # not.this\n::2\treg.example\nfe80::1%lo x\njunk reg.example\n10.0.0.3\n";
        std::fs::write(&path, text).unwrap();
        let found = |host: &str| read_hosts(&path, host).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found("reg.example"), ["10.0.0.1", "::2"]);
        assert_eq!(found("alias"), ["10.0.0.1"]);
        for none in ["not.this", "x", "10.0.0.3", ""] {
            assert!(found(none).is_empty(), "{none}");
        }
        assert!(read_hosts(&directory.path().join("missing"), "a").is_empty());
    }
}
