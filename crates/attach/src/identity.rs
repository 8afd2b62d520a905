//! Names in the kernel, derived from the attachment, so that DEL and GC need
//! no memory of what ADD did.

use cni::{AttachmentId, NetworkName, Request};
use sha2::{Digest, Sha512};

/// The host end of an attachment's veth pair: `veth` and 11 hexadecimal digits
/// of SHA-512 over network, container and interface (44 bits: one chance in a
/// million that two of 5,000 containers meet).
///
/// `try_` is 0 for the first choice; the further ones are for a leftover of the
/// same attachment that stands in the way.
pub fn host_link_name(network: &NetworkName, attachment: &AttachmentId, try_: u8) -> String {
    let AttachmentId { container_id, ifname } = attachment;
    // None of the parts can contain a slash, so no two triples read the same.
    hashed(&format!("{network}/{container_id}/{ifname}/{try_}"))
}

/// The port behind a link of the host's own on a bridge, which several
/// attachments share.
pub fn shared_link_name(link: &str) -> String {
    hashed(link)
}

/// What a link is called in the container for a moment, where it cannot be born
/// under its own name; see [`crate::contained`].
pub fn first_link_name(network: &NetworkName, attachment: &AttachmentId) -> String {
    let AttachmentId { container_id, ifname } = attachment;
    hashed(&format!("{network}/{container_id}/{ifname}/first"))
}

fn hashed(text: &str) -> String {
    format!("veth{}", digest(text, 11))
}

/// The first `digits` hexadecimal digits of a text's SHA-512, at most 128: what names
/// of bounded length are made of.
pub fn digest(text: &str, digits: usize) -> String {
    let bytes = Sha512::digest(text);
    let mut hex: String =
        bytes.iter().take(digits.div_ceil(2)).map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(digits);
    hex
}

/// How many names [`host_link_name`] offers.
pub const HOST_LINK_TRIES: u8 = 4;

/// What the alias of a host-side link says, so that GC (and a person who runs
/// `ip link`) knows whose it is: `oxcni:<network>/<container>/<interface>`.
///
/// `None` when it would not fit the kernel's 256 bytes (`IFALIASZ`); then GC
/// leaves the link to DEL.
pub fn alias(network: &NetworkName, attachment: &AttachmentId) -> Option<String> {
    let AttachmentId { container_id, ifname } = attachment;
    Some(format!("oxcni:{network}/{container_id}/{ifname}")).filter(|alias| alias.len() < 256)
}

/// Whether an alias is one of [`alias`]'s, of whatever network.
pub fn is_alias(alias: &str) -> bool {
    alias.starts_with("oxcni:")
}

/// Network and container that an alias names.
pub fn parts_of_alias(alias: &str) -> Option<(&str, &str)> {
    let (network, rest) = alias.strip_prefix("oxcni:")?.split_once('/')?;
    Some((network, rest.split_once('/')?.0))
}

/// Does an alias name an attachment, of whichever network?
pub fn is_ours(alias: &str) -> bool {
    alias.strip_prefix("oxcni:").is_some_and(|rest| rest.matches('/').count() == 2)
}

/// The attachment an alias names, if it is of `network`.
pub fn from_alias(network: &NetworkName, alias: &str) -> Option<AttachmentId> {
    let (named, attachment) = attachment_of_alias(alias)?;
    (named == *network).then_some(attachment)
}

/// The attachment an alias names, and its network.
pub fn attachment_of_alias(alias: &str) -> Option<(NetworkName, AttachmentId)> {
    let (network, rest) = alias.strip_prefix("oxcni:")?.split_once('/')?;
    let (container_id, ifname) = rest.split_once('/')?;
    let attachment =
        AttachmentId { container_id: container_id.to_owned(), ifname: ifname.to_owned() };
    Some((NetworkName::new(network).ok()?, attachment))
}

/// All the host link names `request` may have used.
pub fn host_link_names(request: &Request) -> impl Iterator<Item = String> {
    let (network, attachment) = (request.network.name().clone(), request.attachment());
    (0..HOST_LINK_TRIES).map(move |try_| host_link_name(&network, &attachment, try_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(container_id: &str, ifname: &str) -> AttachmentId {
        AttachmentId { container_id: container_id.into(), ifname: ifname.into() }
    }

    #[test]
    fn link_names_fit_the_kernel_and_differ() {
        let net = NetworkName::new("net").expect("valid");
        let mut names: Vec<String> = (0..HOST_LINK_TRIES)
            .flat_map(|t| {
                [id("a", "eth0"), id("a", "eth1"), id("b", "eth0")]
                    .map(|a| host_link_name(&net, &a, t))
            })
            .collect();
        assert!(names.iter().all(|n| n.len() == 15 && n.starts_with("veth")));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 12);
    }

    #[test]
    fn aliases_are_read_back_for_their_network_only() {
        let (net, other) =
            (NetworkName::new("net").expect("valid"), NetworkName::new("ne").expect("valid"));
        let alias_ = alias(&net, &id("c1", "eth0")).expect("fits");
        assert_eq!(alias_, "oxcni:net/c1/eth0");
        assert_eq!(from_alias(&net, &alias_), Some(id("c1", "eth0")));
        assert_eq!(from_alias(&other, &alias_), None);
        assert_eq!(from_alias(&net, "uplink to rack 5"), None);
        assert_eq!(alias(&net, &id(&"c".repeat(250), "eth0")), None);
    }
}
