use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use pretty_assertions::assert_eq;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::fake::{Fake, start_proxy};
use super::*;

/// An authority of its own: a server's configuration for `host`, and the file to trust.
fn authority(directory: &std::path::Path, host: &str) -> (Arc<rustls::ServerConfig>, PathBuf) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let file = directory.join(format!("{host}.pem"));
    std::fs::write(&file, issuer.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    (Arc::new(config), file)
}

fn through(proxy: &str, certificates: &[(&str, &PathBuf)]) -> RegistryOptions {
    let mut through = options();
    through.proxy.https = Some(proxy.to_owned());
    through.certificates =
        certificates.iter().map(|(host, file)| ((*host).to_owned(), (*file).clone())).collect::<BTreeMap<_, _>>();
    through
}

#[test]
fn a_certificate_file_counts_for_its_host_only() {
    let directory = tempfile::tempdir().unwrap();
    let (server, file) = authority(directory.path(), "reg.example");
    let fake = Fake::start_with(Some(server), |_| None);
    fake.put_image("a", "latest", ("linux", "amd64"), &noise(100_000));
    let (proxy, hosts) = start_proxy(fake.address);
    let get = |options: RegistryOptions, reference: &str| {
        Registry::new(options).unwrap().resolve(&reference.parse().unwrap(), &amd64(), &GO_ON)
    };
    get(through(&proxy, &[("reg.example:5000", &file)]), "reg.example:5000/a").unwrap();
    get(through(&proxy, &[("reg.example", &file)]), "reg.example:5000/a").unwrap();
    assert_eq!(hosts.lock().unwrap()[0], "CONNECT reg.example:5000");
    for certificates in [&[][..], &[("other.example", &file)], &[("reg.example:5001", &file)]] {
        let error = get(through(&proxy, certificates), "reg.example:5000/a").unwrap_err();
        assert!(matches!(error, RegistryError::Tls { problem: TlsProblem::UnknownAuthority, .. }), "{error:?}");
    }
    let error = get(through(&proxy, &[("other.example", &file)]), "other.example/a").unwrap_err();
    assert!(matches!(error, RegistryError::Tls { problem: TlsProblem::WrongName { .. }, .. }), "{error:?}");
    // A bundle in place of the system's, and a host whose certificate is not looked at.
    let bundle = RegistryOptions { ca_bundle: Some(file.clone()), ..through(&proxy, &[]) };
    get(bundle, "reg.example/a").unwrap();
    let insecure = RegistryOptions { insecure: vec!["other.example".to_owned()], ..through(&proxy, &[]) };
    get(insecure, "other.example/a").unwrap();
    let missing = directory.path().join("missing.pem");
    let error = get(through(&proxy, &[("reg.example", &missing)]), "reg.example/a").unwrap_err();
    assert!(matches!(&error, RegistryError::File { path, .. } if *path == missing), "{error:?}");
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    let error = get(through(&proxy, &[("reg.example", &empty)]), "reg.example/a").unwrap_err();
    assert!(matches!(error, RegistryError::File { .. }), "{error:?}");
}

#[test]
fn a_plain_server_where_https_is_due_is_named() {
    let fake = Fake::start(|_| None);
    let (proxy, _) = start_proxy(fake.address);
    let registry = Registry::new(through(&proxy, &[])).unwrap();
    let error = registry.manifest(&"reg.example/a".parse().unwrap(), &GO_ON).unwrap_err();
    assert!(matches!(error, RegistryError::Tls { problem: TlsProblem::PlainHttp, .. }), "{error:?}");
}

#[test]
fn docker_io_is_asked_for_what_the_mirror_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let (server, file) = authority(directory.path(), "registry-1.docker.io");
    let hub = Fake::start_with(Some(server), |_| None);
    let image = hub.put_image("library/a", "latest", ("linux", "amd64"), b"from the hub");
    let mirror = Fake::start(|_| None);
    let (proxy, hosts) = start_proxy(hub.address);
    let mut with_mirror = through(&proxy, &[("registry-1.docker.io", &file)]);
    with_mirror.mirrors = vec![format!("http://{}", mirror.host())];
    let asked_for: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let seen = asked_for.clone();
    with_mirror.credentials = Some(Arc::new(move |server: &str| {
        seen.lock().unwrap().push(server.to_owned());
        Ok::<_, CredentialError>(None)
    }));
    let registry = Registry::new(with_mirror).unwrap();
    let reference = "a".parse().unwrap();
    let found = registry.resolve(&reference, &amd64(), &GO_ON).unwrap();
    assert_eq!(found.manifest.digest(), &image.manifest);
    let mut layer = Vec::new();
    registry.fetch_blob(&reference, &found.image().layers[0], &mut layer, &mut |_| {}, &GO_ON).unwrap();
    assert_eq!(layer, b"from the hub");
    assert_eq!(mirror.asked().len(), 3);
    assert!(hosts.lock().unwrap().iter().all(|line| line == "CONNECT registry-1.docker.io:443"));
    assert!(asked_for.lock().unwrap().is_empty(), "nobody asked for credentials");
    let error = registry.resolve(&"b".parse().unwrap(), &amd64(), &GO_ON).unwrap_err();
    assert!(error.to_string().contains("registry-1.docker.io/v2/library/b/manifests/latest: 404"), "{error}");
}

#[test]
fn a_refusing_proxy_is_told_and_its_password_is_not() {
    let refusing = Fake::start(|_| Some(fake::Reply::new(403)));
    let address = format!("http://me:hunter2@{}", refusing.host());
    let registry = Registry::new(through(&address, &[])).unwrap();
    let error = registry.manifest(&"reg.example/a".parse().unwrap(), &GO_ON).unwrap_err();
    assert!(matches!(error, RegistryError::Proxy { .. }), "{error:?}");
    let shown = format!("{error} {error:?} {registry:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(refusing.all_asked()[0].header("proxy-authorization").is_some());
    let mut direct = through(&address, &[]);
    direct.proxy.no_proxy = Some("nowhere.invalid".to_owned());
    let error = Registry::new(direct).unwrap().manifest(&"nowhere.invalid/a".parse().unwrap(), &GO_ON).unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Resolve);
    let mut broken = options();
    broken.proxy.http = Some("http://me:hunter2@[".to_owned());
    let error = Registry::new(broken).unwrap_err();
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}
