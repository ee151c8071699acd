//! Where a server is, by its URL alone: on this machine, or near.

use std::net::{IpAddr, Ipv6Addr};

use reqwest::Url;

/// The host without brackets and without the dot that ends a full name, in lower case.
fn host(base: &Url) -> Option<String> {
    let host = base.host_str()?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    Some(bare.trim_end_matches('.').to_ascii_lowercase())
}

/// An address; one of IPv4 that is written as IPv6 is what it stands for.
fn address(host: &str) -> Option<IpAddr> {
    let ip: IpAddr = host.parse().ok()?;
    Some(ip.to_canonical())
}

/// Whether the server is on this machine.
pub(super) fn is_loopback(base: &Url) -> bool {
    host(base).is_some_and(|host| match address(&host) {
        Some(ip) => ip.is_loopback(),
        None => host == "localhost" || host.ends_with(".localhost"),
    })
}

/// Whether the server is on this machine or in its own network: a private or link-local address, a
/// name below `.local`, or a name without a dot.
pub(super) fn is_near(base: &Url) -> bool {
    is_loopback(base)
        || host(base).is_some_and(|host| match address(&host) {
            Some(IpAddr::V4(ip)) => ip.is_private() || ip.is_link_local(),
            Some(IpAddr::V6(ip)) => is_near_v6(ip),
            None => host.ends_with(".local") || !(host.is_empty() || host.contains('.')),
        })
}

const fn is_near_v6(ip: Ipv6Addr) -> bool {
    ip.is_unique_local() || ip.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_url_says_whether_its_server_is_here_near_or_far() {
        let (here, near, far) = ((true, true), (false, true), (false, false));
        for (host, expected) in [
            ("localhost", here),
            ("LocalHost.", here),
            ("box.localhost", here),
            ("127.0.0.1", here),
            ("127.8.9.1", here),
            ("2130706433", here),
            ("[::1]", here),
            ("[::ffff:127.0.0.1]", here),
            ("10.0.0.1", near),
            ("10.255.255.255", near),
            ("172.16.0.1", near),
            ("172.31.255.255", near),
            ("192.168.178.20", near),
            ("169.254.1.1", near),
            ("[fc00::1]", near),
            ("[fdff:1::2]", near),
            ("[fe80::1]", near),
            ("[febf::1]", near),
            ("[::ffff:192.168.0.9]", near),
            ("box.local", near),
            ("box.LOCAL.", near),
            ("a.b.local", near),
            ("llama", near),
            ("gpu-1", near),
            ("9.255.255.255", far),
            ("11.0.0.1", far),
            ("172.15.255.255", far),
            ("172.32.0.1", far),
            ("192.167.255.255", far),
            ("192.169.0.1", far),
            ("169.253.1.1", far),
            ("8.8.8.8", far),
            ("[fbff::1]", far),
            ("[fe00::1]", far),
            ("[fec0::1]", far),
            ("[2001:db8::1]", far),
            ("[::ffff:8.8.8.8]", far),
            ("api.openai.com", far),
            ("api.openai.com.", far),
            ("local.example.com", far),
            ("notlocal.com", far),
            ("my-local.ai", far),
            ("localhost.example.com", far),
            ("10.0.0.1.example.com", far),
        ] {
            let url = Url::parse(&format!("http://{host}:8080/v1")).unwrap();
            let found = (is_loopback(&url), is_near(&url));
            assert_eq!(found, expected, "{host}");
        }
    }
}
