//! EXPOSE: port specifications as each builder reads them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rbuild_logfmt::event::Builder;
use rbuild_parser::lint::{Violation, exposed_port};

/// Reads the words of an EXPOSE (`80`, `53/udp`, `8000-8002`, `127.0.0.1:80:8080`) into `port/protocol` names: in the
/// order written for BuildKit (`dockerfile2llb/convert_expose.go` of BuildKit 0.25), sorted and without repetition for
/// the legacy builder (go-connections `nat.ParsePortSpecs`, in the wording of the release that Docker 20.10 and 28.5
/// are built with).
///
/// `lint` is told what BuildKit's build checks say of each word.
///
/// # Errors
/// Docker's text.
pub(crate) fn parse(
    words: &[String],
    builder: Builder,
    lint: &mut dyn FnMut(Vec<Violation>),
) -> Result<Vec<String>, String> {
    let mut ports = Vec::new();
    for word in words {
        match builder {
            Builder::Buildkit => ports.extend(parse_buildkit(word, lint)?),
            Builder::Legacy => ports.extend(parse_legacy(word)?),
        }
    }
    if builder == Builder::Legacy {
        ports = ports.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    }
    Ok(ports)
}

/// Host address, host port and container port of `[[address:]host:]container`.
fn split_parts(raw: &str) -> (String, &str, &str) {
    let parts: Vec<&str> = raw.split(':').collect();
    match parts.as_slice() {
        [container] => (String::new(), "", container),
        [host, container] => (String::new(), host, container),
        [address @ .., host, container] => (address.join(":"), host, container),
        [] => (String::new(), "", ""),
    }
}

/// Whether an address (with or without brackets) is none.
fn bad_address(address: &str) -> bool {
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    !bare.is_empty() && bare.parse::<IpAddr>().is_err()
}

fn names(start: u32, end: u32, protocol: &str) -> Vec<String> {
    let protocol = protocol.to_lowercase();
    (start..=end).map(|port| format!("{port}/{protocol}")).collect()
}

fn is_protocol(name: &str) -> bool {
    matches!(name.to_lowercase().as_str(), "tcp" | "udp" | "sctp")
}

fn parse_buildkit(raw: &str, lint: &mut dyn FnMut(Vec<Violation>)) -> Result<Vec<String>, String> {
    let (address, host, container) = split_parts(raw);
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err(format!("invalid port: {raw:?}: no port specified"));
    }
    let protocol = if protocol.is_empty() { "tcp" } else { protocol };
    if !is_protocol(protocol) {
        return Err(format!("invalid port: {raw:?}: invalid proto: {protocol}"));
    }
    lint(exposed_port(raw, protocol, !address.is_empty() || !host.is_empty()));
    if bad_address(&address) {
        return Err(format!("invalid IP address: {address}"));
    }
    let range = |text: &str| -> Option<(u32, u32)> {
        let number = |digits: &str| digits.parse::<i64>().ok().filter(|n| (0..=65535).contains(n)).map(|n| n as u32);
        let (start, end) = text.split_once('-').unwrap_or((text, text));
        let (start, end) = (number(start)?, number(end)?);
        (start <= end).then_some((start, end))
    };
    let (start, end) = range(port).ok_or_else(|| format!("invalid containerPort: {port}"))?;
    if !host.is_empty() {
        let (host_start, host_end) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if end - start != host_end - host_start && start != end {
            return Err(format!("invalid ranges specified for container and host Ports: {port} and {host}"));
        }
    }
    Ok(names(start, end, protocol))
}

fn parse_legacy(raw: &str) -> Result<Vec<String>, String> {
    let (address, host, container) = split_parts(raw);
    let mut pieces = container.split('/');
    let port = pieces.next().unwrap_or_default();
    let protocol = match pieces.next() {
        Some(protocol) if !protocol.is_empty() => protocol,
        _ => "tcp",
    };
    if bad_address(&address) {
        return Err(format!("Invalid ip address: {address}"));
    }
    if port.is_empty() {
        return Err(format!("No port specified: {raw}<empty>"));
    }
    let range = |text: &str| -> Option<(u32, u32)> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            if plain { digits.parse::<u16>().ok().map(u32::from) } else { None }
        };
        let mut ends = text.split('-');
        let start = number(ends.next()?)?;
        let end = match ends.next() {
            Some(end) => number(end)?,
            None => start,
        };
        (start <= end).then_some((start, end))
    };
    let (start, end) = range(port).ok_or_else(|| format!("Invalid containerPort: {port}"))?;
    if !host.is_empty() {
        let (host_start, host_end) = range(host).ok_or_else(|| format!("Invalid hostPort: {host}"))?;
        if end - start != host_end - host_start && start != end {
            return Err(format!("Invalid ranges specified for container and host Ports: {port} and {host}"));
        }
    }
    if !is_protocol(protocol) {
        return Err(format!("Invalid proto: {protocol}"));
    }
    Ok(names(start, end, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(words: &[&str]) -> (Result<Vec<String>, String>, Result<Vec<String>, String>) {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        (parse(&words, Builder::Legacy, &mut |_| ()), parse(&words, Builder::Buildkit, &mut |_| ()))
    }

    #[test]
    fn ranges_and_protocols() {
        let (legacy, buildkit) = both(&["80", "53/UDP", "8000-8001", "80/tcp"]);
        assert_eq!(legacy.unwrap(), ["53/udp", "80/tcp", "8000/tcp", "8001/tcp"]);
        assert_eq!(buildkit.unwrap(), ["80/tcp", "53/udp", "8000/tcp", "8001/tcp", "80/tcp"]);
    }

    #[test]
    fn words_of_the_errors() {
        let (legacy, buildkit) = both(&["notaport"]);
        assert_eq!(legacy.unwrap_err(), "Invalid containerPort: notaport");
        assert_eq!(buildkit.unwrap_err(), "invalid containerPort: notaport");
        let (legacy, buildkit) = both(&["80/icmp"]);
        assert_eq!(legacy.unwrap_err(), "Invalid proto: icmp");
        assert_eq!(buildkit.unwrap_err(), "invalid port: \"80/icmp\": invalid proto: icmp");
        let (legacy, buildkit) = both(&["9-8"]);
        assert!(legacy.is_err() && buildkit.is_err());
    }

    #[test]
    fn what_the_checks_say() {
        let words: Vec<String> = ["80", "81/TCP", "1:82", "::1:1:83/Udp", "84/x"].map(str::to_owned).to_vec();
        let mut found = Vec::new();
        let parsed = parse(&words, Builder::Buildkit, &mut |violations| found.push(violations.len()));
        assert!(parsed.is_err());
        assert_eq!(found, [0, 1, 1, 2]);
    }

    #[test]
    fn addresses_and_host_ports() {
        let (legacy, buildkit) = both(&["127.0.0.1:80:8080", "[::1]:1:2"]);
        assert_eq!(legacy.unwrap(), ["2/tcp", "8080/tcp"]);
        assert_eq!(buildkit.unwrap(), ["8080/tcp", "2/tcp"]);
        assert!(both(&["x:1:2"]).0.is_err());
    }
}
