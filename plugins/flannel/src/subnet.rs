//! flanneld's lease: `subnet.env`, read as data. Whatever stands behind the
//! `=` is the value, to the end of the line; nothing is expanded, quoted or
//! run (CVE-2026-32241).

use cni::{Code, Error, Result, cidr};
use ipnetwork::IpNetwork;
use std::path::Path;
use std::time::{Duration, Instant};

/// The largest file that is read, in bytes; flanneld's has some hundred.
const FILE_LIMIT: usize = 64 << 10;

/// How often the file is looked for while waiting.
const POLL: Duration = Duration::from_millis(100);

/// What flanneld leased for this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The cluster's networks, IPv4 before IPv6, each once.
    pub(crate) networks: Vec<IpNetwork>,
    /// This node's subnets: one per family at most.
    pub(crate) subnets: Vec<IpNetwork>,
    /// In bytes, what the encapsulation leaves.
    pub(crate) mtu: u32,
    /// flanneld masquerades itself.
    pub(crate) ip_masq: bool,
}

impl Lease {
    /// Reads the file, waiting up to `limit` until it is whole.
    pub(crate) fn wait_for(file: &Path, limit: Duration) -> Result<Lease> {
        let deadline = Instant::now() + limit;
        loop {
            match Lease::load(file) {
                Err(error) if Instant::now() + POLL > deadline => {
                    return Err(if limit.is_zero() {
                        error
                    } else {
                        error.with_code(Code::TRY_AGAIN)
                    });
                }
                Err(_) => {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "not even the folder may be there to watch; bounded by subnetFileWait"
                    )]
                    std::thread::sleep(POLL);
                }
                loaded => return loaded,
            }
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// Code 999: it is not there yet, incomplete, or has a malformed value.
    pub(crate) fn load(file: &Path) -> Result<Lease> {
        let failed = |what: String| {
            Error::internal(format!(
                "load flannel's subnet file {}: {what}: flanneld on this node writes it; see its log",
                file.display()
            ))
        };
        let bytes = store::read_foreign(file, FILE_LIMIT).map_err(|e| match e.is_not_found() {
            true => failed("it is not there (yet)".into()),
            false => failed(e.cause()),
        })?;
        Lease::parse(&String::from_utf8_lossy(&bytes)).map_err(failed)
    }

    pub(crate) fn parse(text: &str) -> Result<Lease, String> {
        let (mut v4, mut v6) = (Family::default(), Family::default());
        let (mut mtu, mut ip_masq) = (None, None);
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            let at = |e: String| format!("{key}: {e}");
            match key {
                "FLANNEL_NETWORK" => v4.networks = Some(networks(value, true).map_err(at)?),
                "FLANNEL_IPV6_NETWORK" => v6.networks = Some(networks(value, false).map_err(at)?),
                "FLANNEL_SUBNET" => v4.subnet = Some(network(value, true).map_err(at)?),
                "FLANNEL_IPV6_SUBNET" => v6.subnet = Some(network(value, false).map_err(at)?),
                "FLANNEL_MTU" => {
                    mtu = Some(
                        value
                            .parse()
                            .map_err(|_| at(format!("{value:?} is not a number of bytes")))?,
                    );
                }
                "FLANNEL_IPMASQ" => ip_masq = Some(flag(value).map_err(at)?),
                _ => {}
            }
        }
        let mut missing = Vec::new();
        if v4.networks.is_none() && v6.networks.is_none() {
            missing.extend(["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"]);
        }
        if v4.subnet.is_none() && v6.subnet.is_none() {
            missing.extend(["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"]);
        }
        match (mtu, ip_masq, missing.is_empty()) {
            (Some(mtu), Some(ip_masq), true) => Ok(Lease {
                networks: [v4.networks, v6.networks].into_iter().flatten().flatten().collect(),
                subnets: [v4.subnet, v6.subnet].into_iter().flatten().collect(),
                mtu,
                ip_masq,
            }),
            _ => {
                missing.extend(mtu.is_none().then_some("FLANNEL_MTU"));
                missing.extend(ip_masq.is_none().then_some("FLANNEL_IPMASQ"));
                Err(format!("it is missing {}", missing.join(", ")))
            }
        }
    }
}

#[derive(Default)]
struct Family {
    networks: Option<Vec<IpNetwork>>,
    subnet: Option<IpNetwork>,
}

/// As flanneld writes it (Go's `%v`). All else is half-written or damaged, and
/// taking it for false would switch masquerading on.
fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

/// A subnet; the host's own address in it does not matter.
fn network(text: &str, is_v4: bool) -> Result<IpNetwork, String> {
    let net = cidr::parse(text)?;
    if net.is_ipv4() != is_v4 {
        return Err(format!("{text} is of the other family"));
    }
    IpNetwork::new(net.network(), net.prefix()).map_err(|e| e.to_string())
}

/// A comma list, each once.
fn networks(text: &str, is_v4: bool) -> Result<Vec<IpNetwork>, String> {
    let mut list = Vec::new();
    for item in text.split(',') {
        let net = network(item, is_v4)?;
        if !list.contains(&net) {
            list.push(net);
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    const DUAL: &str = "FLANNEL_NETWORK=10.1.0.0/16,10.2.0.0/16,10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\n\
        FLANNEL_IPV6_NETWORK=fc00::/48\nFLANNEL_IPV6_SUBNET=fc00::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\nX\nY=1\n";

    fn text(nets: &[IpNetwork]) -> String {
        nets.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_lease_is_read() {
        let lease = Lease::parse(DUAL).expect("valid");
        assert_eq!(text(&lease.networks), "10.1.0.0/16 10.2.0.0/16 fc00::/48");
        assert_eq!(text(&lease.subnets), "10.1.17.0/24 fc00::/64");
        assert_eq!((lease.mtu, lease.ip_masq), (1450, true));
        let last_wins = format!("{DUAL}FLANNEL_MTU=1400\nFLANNEL_IPMASQ=false\n");
        let lease = Lease::parse(&last_wins).expect("valid");
        assert_eq!((lease.mtu, lease.ip_masq), (1400, false));
        // as an editor on another system writes it
        assert_eq!(Lease::parse(&DUAL.replace('\n', "\r\n")), Lease::parse(DUAL));
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        assert_eq!(
            Lease::parse("").expect_err("empty"),
            "it is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"
        );
        for (line, culprit) in [
            ("FLANNEL_MTU=-1", "FLANNEL_MTU"),
            ("FLANNEL_MTU=$(reboot)", "FLANNEL_MTU: \"$(reboot)\""),
            ("FLANNEL_SUBNET=\"10.1.0.0/24\"", "FLANNEL_SUBNET"),
            ("FLANNEL_SUBNET=`id`", "FLANNEL_SUBNET"),
            ("FLANNEL_SUBNET= 10.1.0.0/24", "FLANNEL_SUBNET"),
            ("FLANNEL_SUBNET=fc00::/64", "FLANNEL_SUBNET: fc00::/64 is of the other family"),
            ("FLANNEL_NETWORK=10.0.0.0/8,", "FLANNEL_NETWORK"),
            ("FLANNEL_IPMASQ=tr", "FLANNEL_IPMASQ: \"tr\" is neither true nor false"),
            ("FLANNEL_IPMASQ=", "FLANNEL_IPMASQ: \"\""),
            ("FLANNEL_IPMASQ=True", "FLANNEL_IPMASQ: \"True\""),
            ("FLANNEL_IPMASQ=\"true\"", "FLANNEL_IPMASQ"),
            ("FLANNEL_IPMASQ=$(id)", "FLANNEL_IPMASQ"),
            ("FLANNEL_IPMASQ=false ", "FLANNEL_IPMASQ"),
        ] {
            let error = Lease::parse(&format!("{DUAL}{line}\n")).expect_err(line);
            assert!(error.contains(culprit), "{line}: {error}");
        }
        // a key without `=` is a line like any other
        assert!(Lease::parse(&format!("{DUAL}FLANNEL_MTU\n")).is_ok());
    }

    #[test]
    fn every_cut_is_an_error_or_the_whole() {
        let whole = Lease::parse(DUAL).expect("valid");
        // flanneld writes FLANNEL_IPMASQ last.
        let needed = DUAL.find("=true").expect("it is there") + "=true".len();
        for end in 0..=DUAL.len() {
            match Lease::parse(&DUAL[..end]) {
                Ok(lease) => assert!(end >= needed && lease == whole, "{:?}", &DUAL[..end]),
                Err(error) => assert!(end < needed, "{:?}: {error}", &DUAL[..end]),
            }
        }
    }

    /// Lines of what flanneld could write, and others.
    fn lines() -> impl Strategy<Value = String> {
        let keys = ["NETWORK", "SUBNET", "IPV6_NETWORK", "IPV6_SUBNET", "MTU", "IPMASQ", "X"];
        let values = prop_oneof![
            "[0-9.:/,a-f]{0,20}",
            "\\PC{0,12}",
            select(vec!["10.1.0.0/16,10.2.0.0/16", "fc00::/48", "1450", "true", "$(id)", "::/129"])
                .prop_map(str::to_owned),
        ];
        (select(keys.to_vec()), values).prop_map(|(key, value)| format!("FLANNEL_{key}={value}\n"))
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            lines in vec(lines(), 0..8),
            damage in vec((any::<Index>(), any::<u8>()), 0..4),
            whole: bool,
        ) {
            let mut bytes = if whole { DUAL.as_bytes().to_vec() } else { Vec::new() };
            bytes.extend(lines.concat().into_bytes());
            for (at, byte) in damage.into_iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(lease) = Lease::parse(&String::from_utf8_lossy(&bytes)) {
                prop_assert!(!lease.networks.is_empty() && (1..=2).contains(&lease.subnets.len()));
                prop_assert!(lease.networks.len() <= bytes.len());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
            let _ = Lease::parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
