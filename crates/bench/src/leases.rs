//! Leases of host-local, made as files in the format of upstream's program:
//! `<dataDir>/<network>/<address>` holds `<container>\r\n<interface>`, and
//! `last_reserved_ip.0` the address given last.

use crate::Outcome;
use crate::host::make_folder;
use serde_json::{Value, json};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

/// Wide enough for 65,533 containers.
pub(crate) const SUBNET: &str = "10.64.0.0/16";

/// The first address behind that of the gateway.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 2);

/// Makes the first `count` leases of the subnet.
pub(crate) fn make(data: &Path, network: &str, count: u32) -> Outcome<()> {
    let folder = data.join(network);
    make_folder(&folder)?;
    let write = |name: &str, content: &str| {
        let path = folder.join(name);
        fs::write(&path, content).map_err(|e| format!("write {}: {e}", path.display()))
    };
    let mut last = None;
    for number in 0..count {
        let address = address(number).to_string();
        write(&address, &format!("{}\r\neth0", container(number)))?;
        last = Some(address);
    }
    last.map_or(Ok(()), |last| write("last_reserved_ip.0", &last))
}

/// All leases of `make` as `cni.dev/valid-attachments`.
pub(crate) fn attachments(count: u32) -> Value {
    let attachment = |number| json!({"containerID": container(number), "ifname": "eth0"});
    (0..count).map(attachment).collect()
}

/// Whether `address` is one of the first `count`.
pub(crate) fn is_taken(address: Ipv4Addr, count: u32) -> bool {
    let number = address.to_bits().checked_sub(FIRST.to_bits());
    number.is_some_and(|number| number < count)
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST.to_bits() + number)
}

/// As long as the IDs of real runtimes.
fn container(number: u32) -> String {
    format!("{number:064x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_addresses_are_taken() {
        assert_eq!(address(9_999), Ipv4Addr::new(10, 64, 39, 17));
        assert!(is_taken(address(0), 1));
        assert!(is_taken(address(9_999), 10_000));
        assert!(!is_taken(address(10_000), 10_000));
        assert!(!is_taken(Ipv4Addr::new(10, 64, 0, 1), 10_000));
    }
}
