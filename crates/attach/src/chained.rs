//! What plugins do that stand behind another one in a chain: read its result,
//! find the container's addresses in it, and mark what they make in the kernel
//! as this attachment's.

use crate::identity::digest;
use cni::{AttachmentId, Attachments, Error, IpConfig, NetworkName, Request, Result, Success};
use ipnetwork::IpNetwork;
use linux::Family;
use linux::nft::COMMENT_MAX;

/// The result of the plugin before this one, which ADD cannot do without.
///
/// # Errors
/// Code 7 when there is none, code 6 when it is malformed.
pub fn prev_result(request: &Request, plugin: &str) -> Result<Success> {
    request.prev_result()?.ok_or_else(|| {
        Error::invalid_config(format!(
            "attach {}: prevResult is missing: {plugin} must be called as chained plugin, behind one that makes the interface",
            request.ifname
        ))
    })
}

/// The container's first address of a family, see [`container_ips`].
pub fn container_address(request: &Request, result: &Success, family: Family) -> Option<IpNetwork> {
    let mut ips = container_ips(request, result);
    ips.find(|ip| Family::of(ip.address.ip()) == family).map(|ip| ip.address)
}

/// The container's addresses.
///
/// Results of other programs are loose: an address without an interface, or
/// with an index that leads nowhere, counts as the container's; one of another
/// interface, or of one on the host, does not.
pub fn container_ips<'a>(
    request: &'a Request,
    result: &'a Success,
) -> impl Iterator<Item = &'a IpConfig> {
    let is_containers = move |index: Option<i64>| {
        let interface = index
            .and_then(|index| usize::try_from(index).ok())
            .and_then(|index| result.interfaces.get(index));
        interface.is_none_or(|interface| {
            interface.name == request.ifname.as_str() && !interface.sandbox.is_empty()
        })
    };
    result.ips.iter().filter(move |ip| is_containers(ip.interface))
}

/// Hexadecimal digits of each half of a mark: 64 bits, so that no two networks
/// or attachments of a host ever have the same.
const HASH_DIGITS: usize = 16;

/// The mark of an attachment, as the comment of rules and elements of nftables
/// and the alias of a link that several attachments could have: hashes of the
/// network and of interface and container, and behind them the names as far
/// as the kernel has room. As the reference plugins mark masquerade rules:
/// `<network>-<interface:container>, net: N, if: I, id: C`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    key: String,
    comment: String,
}

impl Owner {
    /// The mark of an attachment on a network.
    pub fn new(network: &NetworkName, attachment: &AttachmentId) -> Owner {
        let AttachmentId { container_id, ifname } = attachment;
        let key = format!("{}{}", Owner::prefix(network), hash_of(attachment));
        // Names of interfaces may contain quotes, which nft could not read back.
        let ifname = ifname.replace('"', "");
        let mut comment = format!("{key}, net: {network}, if: {ifname}, id: {container_id}");
        cut(&mut comment);
        Owner { key, comment }
    }

    /// The mark of the attachment of a request.
    pub fn of(request: &Request) -> Owner {
        Owner::new(request.network.name(), &request.attachment())
    }

    /// What the keys of all attachments on a network begin with.
    pub fn prefix(network: &NetworkName) -> String {
        format!("{}-", hash(network.as_str()))
    }

    /// The part that identifies it.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The whole comment.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// A comment with other words behind the key.
    pub fn comment_with(&self, words: &str) -> String {
        let mut comment = format!("{}, {words}", self.key);
        cut(&mut comment);
        comment
    }
}

/// The marks of the attachments of a network that are valid: 8 bytes for each.
#[derive(Debug, Clone)]
pub struct Owners {
    prefix: String,
    marks: Vec<u64>,
}

impl Owners {
    /// Those of `valid`.
    pub fn new(network: &NetworkName, valid: &Attachments) -> Owners {
        let mut marks: Vec<u64> = valid.iter().filter_map(|id| mark(&hash_of(&id))).collect();
        marks.sort_unstable();
        Owners { prefix: Owner::prefix(network), marks }
    }

    /// Is `text` the key of an attachment of the network, or a comment that begins
    /// with one, and the attachment none of these?
    pub fn lack(&self, text: &str) -> bool {
        let Some(rest) = text.strip_prefix(&self.prefix) else { return false };
        mark(rest).is_none_or(|mark| self.marks.binary_search(&mark).is_err())
    }
}

/// The number whose hexadecimal digits `text` begins with.
fn mark(text: &str) -> Option<u64> {
    u64::from_str_radix(text.get(..HASH_DIGITS)?, 16).ok()
}

/// The key in a comment that [`Owner`] wrote; `None` in any other.
pub fn key_of(comment: &str) -> Option<&str> {
    let key = comment.split(',').next()?;
    let (network, attachment) = key.split_once('-')?;
    let is_hash = |text: &str| {
        text.len() == HASH_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    (is_hash(network) && is_hash(attachment)).then_some(key)
}

/// Whether a comment that [`Owner`] wrote is of an attachment of this container.
pub fn is_of_container(comment: &str, container_id: &str) -> bool {
    let Some((_, hash)) = key_of(comment).and_then(|key| key.split_once('-')) else {
        return false;
    };
    // The ID itself may have been cut.
    let ifname = word(comment, "if").unwrap_or_default().to_owned();
    hash == hash_of(&AttachmentId { container_id: container_id.to_owned(), ifname })
}

/// Whose a comment is, for people: `container C (interface I, network N)`.
pub fn describe(comment: &str) -> String {
    let word = |name| word(comment, name);
    match (word("id"), word("if"), word("net")) {
        (Some(id), Some(ifname), Some(network)) => {
            // The last word may have been cut.
            let dots = if comment.len() >= COMMENT_MAX { ".." } else { "" };
            format!("container {id}{dots} (interface {ifname}, network {network})")
        }
        (None, _, Some(network)) => format!("a container on network {network}"),
        _ => format!("{comment:?}"),
    }
}

fn word<'c>(comment: &'c str, name: &str) -> Option<&'c str> {
    let (_, rest) = comment.split_once(&format!(", {name}: "))?;
    rest.split(", ").next().filter(|word| !word.is_empty())
}

fn hash(text: &str) -> String {
    digest(text, HASH_DIGITS)
}

fn hash_of(AttachmentId { container_id, ifname }: &AttachmentId) -> String {
    hash(&format!("{ifname}:{container_id}"))
}

/// Cuts to what nft takes, at the end of a character.
fn cut(comment: &mut String) {
    let mut end = COMMENT_MAX.min(comment.len());
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    comment.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str) -> NetworkName {
        NetworkName::new(name).expect("valid")
    }

    fn attachment(container_id: &str, ifname: &str) -> AttachmentId {
        AttachmentId { container_id: container_id.into(), ifname: ifname.into() }
    }

    #[test]
    fn a_mark_is_the_reference_plugins() {
        let owner = Owner::new(&network("unit-test"), &attachment("ctr", "eth0"));
        // sha512sum of "unit-test" and of "eth0:ctr".
        let (net, att) = (hash("unit-test"), hash("eth0:ctr"));
        assert_eq!(owner.comment(), format!("{net}-{att}, net: unit-test, if: eth0, id: ctr"));
        assert_eq!(key_of(owner.comment()), Some(owner.key()));
        assert!(owner.key().starts_with(&Owner::prefix(&network("unit-test"))));
        assert_eq!(describe(owner.comment()), "container ctr (interface eth0, network unit-test)");
        assert_eq!(key_of(&owner.comment_with("ports: 2")), Some(owner.key()));
    }

    #[test]
    fn a_mark_fits_whatever_the_names() {
        let long = "c".repeat(200);
        let owner = Owner::new(&network(&"n".repeat(40)), &attachment(&long, "ééééééé"));
        assert!(owner.comment().len() <= COMMENT_MAX);
        assert_eq!(key_of(owner.comment()), Some(owner.key()));
        assert!(describe(owner.comment()).contains("ccc.. (interface ééééééé"));
        let other = Owner::new(&network("n"), &attachment(&format!("{long}x"), "ééééééé"));
        assert_ne!(owner.key(), other.key());
        let plain = Owner::new(&network(&"n".repeat(40)), &attachment(&long, "eth0"));
        assert!(is_of_container(plain.comment(), &long));
        assert!(!is_of_container(plain.comment(), &format!("{long}x")));
        assert!(!is_of_container("ctr1", "ctr1"));
        let quoted = Owner::new(&network("n"), &attachment("c", "e\"0"));
        assert!(!quoted.comment().contains('"'));
    }

    #[test]
    fn comments_of_others_have_no_key() {
        for other in ["", "ctr1", "macspoofchk-a-b", "0123456789abcdef-0123456789abcdeX, x"] {
            assert_eq!(key_of(other), None, "{other}");
        }
    }
}
