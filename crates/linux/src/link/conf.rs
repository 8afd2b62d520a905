//! What the kernel keeps for a link for IPv4 and IPv6: `net.ipv4.conf.L.*` and
//! `net.ipv6.conf.L.*`, all of it in one answer.

use super::get_message;
use crate::error::{Error, Result};
use crate::netlink::{Attrs, Message, Socket};
use crate::sysctl;
use crate::uapi::{IFINFOMSG_LEN, IFLA_AF_SPEC, IFLA_INET_CONF, RTM_SETLINK};
use nix::libc;

/// include/uapi/linux/if_link.h
const IFLA_INET6_CONF: u16 = 2;

/// `IPV4_DEVCONF_MC_FORWARDING` (include/uapi/linux/ip.h), which is not anybody's to
/// set; the first is 1.
const IPV4_MC_FORWARDING: usize = 2;

/// The files of `DEVCONF_FORWARDING` and those behind it (include/uapi/linux/ipv6.h).
/// Left out: the link's MTU, which is set with the link's, what only the kernel sets,
/// a secret, and times, which are in other units here.
const IPV6_NAMES: [&str; 59] = [
    "forwarding",
    "hop_limit",
    "",
    "accept_ra",
    "accept_redirects",
    "autoconf",
    "dad_transmits",
    "router_solicitations",
    "",
    "",
    "use_tempaddr",
    "temp_valid_lft",
    "temp_prefered_lft",
    "regen_max_retry",
    "max_desync_factor",
    "max_addresses",
    "force_mld_version",
    "accept_ra_defrtr",
    "accept_ra_pinfo",
    "accept_ra_rtr_pref",
    "",
    "accept_ra_rt_info_max_plen",
    "proxy_ndp",
    "optimistic_dad",
    "accept_source_route",
    "",
    "disable_ipv6",
    "accept_dad",
    "force_tllao",
    "ndisc_notify",
    "mldv1_unsolicited_report_interval",
    "mldv2_unsolicited_report_interval",
    "suppress_frag_ndisc",
    "accept_ra_from_local",
    "use_optimistic",
    "accept_ra_mtu",
    "",
    "use_oif_addrs_only",
    "accept_ra_min_hop_limit",
    "ignore_routes_with_linkdown",
    "drop_unicast_in_l2_multicast",
    "drop_unsolicited_na",
    "keep_addr_on_down",
    "",
    "seg6_enabled",
    "seg6_require_hmac",
    "enhanced_dad",
    "addr_gen_mode",
    "disable_policy",
    "accept_ra_rt_info_min_plen",
    "ndisc_tclass",
    "rpl_seg_enabled",
    "ra_defrtr_metric",
    "ioam6_enabled",
    "ioam6_id",
    "ioam6_id_wide",
    "ndisc_evict_nocarrier",
    "accept_untracked_na",
    "accept_ra_min_lft",
];

/// The parameters of a link, by the kernel's numbers. Lists of another kernel may be
/// shorter or longer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conf {
    /// Of `net.ipv4.conf.L`, from `IPV4_DEVCONF_FORWARDING` on.
    pub ipv4: Vec<u32>,
    /// Of `net.ipv6.conf.L`, from `DEVCONF_FORWARDING` on; empty without IPv6.
    pub ipv6: Vec<u32>,
}

impl Conf {
    /// `accept_ra`; `None` without IPv6.
    pub fn accept_ra(&self) -> Option<u32> {
        let at = IPV6_NAMES.iter().position(|name| *name == "accept_ra")?;
        self.ipv6.get(at).copied()
    }
}

/// The parameters of the link with this index.
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found); the kernel's.
pub fn conf(socket: &Socket, index: u32) -> Result<Conf> {
    socket.get(get_message(index), |reply| Some(parse(reply.body)))
}

/// Gives a link the IPv4 parameters of `wanted`, where it has others.
///
/// # Errors
///
/// The kernel's.
pub fn restore_conf_v4(socket: &Socket, index: u32, present: &Conf, wanted: &Conf) -> Result<()> {
    let lost: Vec<(usize, u32)> = others(&present.ipv4, &wanted.ipv4)
        .map(|(at, value)| (at + 1, value))
        .filter(|(number, _)| *number != IPV4_MC_FORWARDING)
        .collect();
    if lost.is_empty() { Ok(()) } else { socket.request(ipv4_message(index, &lost)) }
}

/// The IPv6 ones, for which there are only files, in the namespace of the calling
/// thread; what was refused.
pub fn restore_conf_v6(name: &str, present: &Conf, wanted: &Conf) -> Vec<Error> {
    let lost = others(&present.ipv6, &wanted.ipv6).filter_map(|(at, value)| {
        let parameter = IPV6_NAMES.get(at).filter(|name| !name.is_empty())?;
        Some((["net", "ipv6", "conf", name, parameter], value.cast_signed().to_string()))
    });
    lost.filter_map(|(parameter, value)| sysctl::write(&parameter, &value).err()).collect()
}

/// Place and wanted value of those that are different.
fn others(present: &[u32], wanted: &[u32]) -> impl Iterator<Item = (usize, u32)> {
    let pairs = present.iter().zip(wanted).enumerate();
    pairs.filter(|(_, (present, wanted))| present != wanted).map(|(at, (_, wanted))| (at, *wanted))
}

/// Like `sysctl net.ipv4.conf.L.arp_notify=1`, for several at once.
pub(crate) fn ipv4_message(index: u32, parameters: &[(usize, u32)]) -> Message {
    let mut header = [0; IFINFOMSG_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let operation = format!("set IPv4 parameters of link {index}");
    let mut message = Message::new(RTM_SETLINK, 0, operation);
    message.put(&header).nest(IFLA_AF_SPEC, |spec| {
        spec.nest(libc::AF_INET as u16, |inet| {
            inet.nest(IFLA_INET_CONF, |conf| {
                for (number, value) in parameters {
                    conf.attr_u32(u16::try_from(*number).unwrap_or_default(), *value);
                }
            });
        });
    });
    message
}

pub(crate) fn parse(body: &[u8]) -> Conf {
    let list = |family: i32, kind: u16| {
        let spec = Attrs::after(body, IFINFOMSG_LEN).find(IFLA_AF_SPEC)?;
        let family = spec.nested().find(family as u16)?;
        let list = family.nested().find(kind)?;
        let numbers = list.payload.as_chunks().0.iter();
        Some(numbers.map(|number| u32::from_ne_bytes(*number)).collect())
    };
    Conf {
        ipv4: list(libc::AF_INET, IFLA_INET_CONF).unwrap_or_default(),
        ipv6: list(libc::AF_INET6, IFLA_INET6_CONF).unwrap_or_default(),
    }
}
