//! UDP "connections" that still go where a port led before.
//!
//! The kernel rewrites the packets of a connection as it did the first one. A
//! client that keeps sending from one port, as DNS and games do, would be heard
//! by nobody after the container behind a port was replaced.

use attach::kernel;
use cni::Result;
use linux::conntrack::{self, Filter};
use linux::nft::Protocol;
use linux::{Family, Socket, addr};
use std::net::IpAddr;

use crate::conf::HostPort;

/// Packets to a host port that were rewritten for a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) host: HostPort,
    pub(crate) target: IpAddr,
    pub(crate) container_port: u16,
}

/// Ends the flows to host ports, wherever they went, so that their next packet
/// takes the new way. Like `conntrack -D -p udp --orig-dst HOST --dport PORT`
/// for each address of the host; what only passes through it on its way to the
/// same port of others is left alone.
///
/// # Errors
/// The kernel's.
pub(crate) fn end_to_host(host: &Socket, ports: &[HostPort], families: &[Family]) -> Result<()> {
    delete(&to_host(host, ports, families)?)
}

/// The same for those that the host itself answers: they lead to no container,
/// and those that do go on. Like `conntrack -D -p udp --orig-dst HOST --dport
/// PORT --reply-src HOST`.
///
/// # Errors
/// The kernel's.
pub(crate) fn end_unmapped(host: &Socket, ports: &[HostPort], families: &[Family]) -> Result<()> {
    let mut filters = to_host(host, ports, families)?;
    for filter in &mut filters {
        filter.reply_source = filter.original_destination;
    }
    delete(&filters)
}

fn to_host(host: &Socket, ports: &[HostPort], families: &[Family]) -> Result<Vec<Filter>> {
    let udp: Vec<&HostPort> = ports.iter().filter(|port| port.protocol == Protocol::UDP).collect();
    let mut filters = Vec::new();
    for family in families.iter().filter(|_| !udp.is_empty()) {
        let of_host = match udp.iter().any(|port| port.address.is_none()) {
            true => addr::list(host, Some(*family), None).map_err(kernel)?,
            false => Vec::new(),
        };
        for port in &udp {
            let addresses: Vec<IpAddr> = match port.address {
                Some(address) => vec![address],
                None => of_host.iter().map(addr::Addr::ip).collect(),
            };
            let of_family = addresses.into_iter().filter(|a| Family::of(*a) == *family);
            filters.extend(of_family.map(|address| Filter {
                protocol: Some(Protocol::UDP),
                original_destination: Some(address),
                original_destination_port: Some(port.port),
                ..Filter::new(*family)
            }));
        }
    }
    Ok(filters)
}

/// Ends the flows to those containers. Like `conntrack -D -p
/// udp --dport PORT --reply-src CONTAINER`.
///
/// # Errors
/// The kernel's.
pub(crate) fn end_to_containers(flows: &[Flow]) -> Result<()> {
    let udp = flows.iter().filter(|flow| flow.host.protocol == Protocol::UDP);
    let filters: Vec<Filter> = udp
        .map(|flow| Filter {
            protocol: Some(Protocol::UDP),
            original_destination: flow.host.address,
            original_destination_port: Some(flow.host.port),
            reply_source: Some(flow.target),
            reply_source_port: Some(flow.container_port),
            ..Filter::new(Family::of(flow.target))
        })
        .collect();
    delete(&filters)
}

fn delete(filters: &[Filter]) -> Result<()> {
    if filters.is_empty() {
        return Ok(());
    }
    let socket = Socket::open(linux::Protocol::Netfilter).map_err(kernel)?;
    match conntrack::delete(&socket, filters) {
        // Nothing is tracked, and nothing was ever rewritten.
        Err(e) if e.is_unsupported() => Ok(()),
        other => other.map(drop).map_err(kernel),
    }
}
