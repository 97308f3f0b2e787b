//! Host names to addresses without the C library: a static binary has no NSS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::error::ResolveProblem;

/// Resolves by `/etc/hosts`, then by the name servers of `/etc/resolv.conf`.
///
/// `localhost` and names below it are always the loopback (RFC 6761), so that a local registry works with no such files.
/// With no readable `resolv.conf` the name server is this machine's, as in Go and in the C library.
#[derive(Clone, Default)]
pub(super) struct SystemResolver {
    // Built at the first use: the resolver wants to live inside the runtime, and a broken file must not break IP literals.
    inner: Arc<OnceLock<Result<(TokioResolver, Vec<String>), NetError>>>,
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
    fn get(&self) -> Result<&(TokioResolver, Vec<String>), NetError> {
        self.inner.get_or_init(build).as_ref().map_err(Clone::clone)
    }
}

fn build() -> Result<(TokioResolver, Vec<String>), NetError> {
    let provider = TokioRuntimeProvider::default();
    let (config, options) = read_system_conf().unwrap_or_else(|_| {
        let local = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        let servers = local
            .into_iter()
            .map(NameServerConfig::udp_and_tcp)
            .collect();
        (
            ResolverConfig::from_name_servers(servers),
            ResolverOpts::default(),
        )
    });
    let servers = config
        .name_servers()
        .iter()
        .map(|server| SocketAddr::new(server.ip, 53).to_string())
        .collect();
    let mut builder = TokioResolver::builder_with_config(config, provider);
    *builder.options_mut() = options;
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    Ok((builder.build()?, servers))
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let host = name.as_str().trim_end_matches('.').to_ascii_lowercase();
            if host == "localhost" || host.ends_with(".localhost") {
                let local = [
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ];
                return Ok(Box::new(local.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs);
            }
            let failed = |servers: &[String], error: NetError| {
                let problem = match &error {
                    NetError::Timeout => ResolveProblem::Timeout,
                    error if error.is_no_records_found() => ResolveProblem::NoSuchHost,
                    error => ResolveProblem::Failed(error.to_string()),
                };
                LookupError {
                    host: host.clone(),
                    servers: servers.to_vec(),
                    problem,
                }
            };
            let (inner, servers) = resolver.get().map_err(|error| failed(&[], error))?;
            let found = inner
                .lookup_ip(name.as_str())
                .await
                .map_err(|error| failed(servers, error))?;
            let addresses: Vec<SocketAddr> =
                found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
