//! The parent of a link: the lower device that macvlan, ipvlan and VLAN links
//! stand on, `master` in configurations. It is the user's; nothing here changes
//! it.

use crate::sandbox::Sandbox;
use crate::{ability, kernel};
use cni::{Code, Error, Result};
use linux::link::{self, Link, LinkInfo, MacvlanMode};
use linux::route::{self, Filter, Route, RouteKind};
use linux::{ErrorKind, Family, Socket, netns};

/// Where a configuration means its parent to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The host.
    Host,
    /// The container: `linkInContainer`.
    Container,
}

impl Place {
    /// The place `linkInContainer` says.
    pub fn new(link_in_container: bool) -> Place {
        if link_in_container { Place::Container } else { Place::Host }
    }

    /// The links there. The sandbox must have been [entered](Sandbox::enter).
    ///
    /// # Errors
    /// It has not.
    pub fn socket<'s>(self, sandbox: &'s Sandbox) -> Result<&'s Socket> {
        match self {
            Place::Host => Ok(sandbox.host()),
            Place::Container => sandbox.container(),
        }
    }

    /// STATUS: links of `kind` can be made with a parent there.
    ///
    /// # Errors
    /// Those of [`ability::links`] and [`ability::entering`].
    pub fn status(self, kind: &str) -> Result<()> {
        match self {
            Place::Host => {
                ability::entering()?;
                ability::links(&Socket::route().map_err(kernel)?, kind)
            }
            Place::Container => ability::links_in_containers(kind),
        }
    }

    fn described(self) -> &'static str {
        match self {
            Place::Host => "on the host",
            Place::Container => "in the container (linkInContainer)",
        }
    }
}

/// What is to stand on a parent, which decides what else may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Child {
    /// A VLAN: beside anything.
    Vlan,
    /// An ipvlan: beside its like.
    Ipvlan,
    /// A macvlan: beside its like, but for one in mode passthru.
    Macvlan,
    /// A macvlan in mode passthru: alone.
    Passthru,
}

impl Child {
    fn kind(self) -> &'static str {
        match self {
            Child::Vlan => "vlan",
            Child::Ipvlan => "ipvlan",
            Child::Macvlan | Child::Passthru => "macvlan",
        }
    }

    /// What stands in its way on `parent`, as far as can be seen from there: who
    /// stands on the parent with a link in a container cannot.
    fn obstacle(self, socket: &Socket, parent: &Link) -> Result<Option<String>> {
        if self == Child::Vlan {
            return Ok(None);
        }
        if parent.mac.is_none() {
            return Ok(Some("it is no Ethernet link".to_owned()));
        }
        let links = link::list(socket).map_err(kernel)?;
        let master = links.iter().find(|link| Some(link.index) == parent.master);
        // A VRF takes no frames.
        if let Some(master) = master.filter(|master| !master.is_kind("vrf")) {
            return Ok(Some(format!("it is a port of {}", master.name)));
        }
        let is_on_it =
            |link: &&Link| link.link == Some(parent.index) && link.link_netns_id.is_none();
        Ok(links.iter().filter(is_on_it).find_map(|link| self.rival(link)))
    }

    /// Why it cannot be beside `other`.
    fn rival(self, other: &Link) -> Option<String> {
        let name = &other.name;
        match other.kind.as_deref()? {
            "macvlan" | "macvtap" if self == Child::Ipvlan => {
                Some(format!("{name} on it is a macvlan, which ipvlans cannot be beside"))
            }
            "ipvlan" | "ipvtap" if self != Child::Ipvlan => {
                Some(format!("{name} on it is an ipvlan, which macvlans cannot be beside"))
            }
            "macvlan" | "macvtap" if self == Child::Passthru => Some(format!(
                "{name} on it is a macvlan as well, and passthru takes the whole parent"
            )),
            _ if other.info == (LinkInfo::Macvlan { mode: Some(MacvlanMode::Passthru) }) => {
                Some(format!("{name} on it is a macvlan in mode passthru, which takes it whole"))
            }
            _ => None,
        }
    }

    /// The same where nothing is to be seen, by the kernel's refusal.
    fn likely_obstacle(self, error: &linux::Error) -> Option<&'static str> {
        let is_invalid = error.kind() == ErrorKind::Invalid && error.kernel_message().is_none();
        match self {
            Child::Macvlan | Child::Ipvlan | Child::Passthru if error.is_busy() => {
                Some("it is in use as a port, or by links of another kind in a container")
            }
            Child::Macvlan if is_invalid => {
                Some("a container has a macvlan in mode passthru on it, which takes it whole")
            }
            Child::Passthru if is_invalid => {
                Some("a container has a macvlan on it as well, and passthru takes the whole parent")
            }
            _ => None,
        }
    }
}

/// A parent that was found.
#[derive(Debug, Clone)]
pub struct Parent {
    /// The link.
    pub link: Link,
    /// Where it is.
    pub place: Place,
}

/// Finds the parent called `name`, an alternative name as well; without a name,
/// the link of the first default route, IPv4 before IPv6. The sandbox must have
/// been [entered](Sandbox::enter).
///
/// # Errors
/// There is no such link, no default route, or it is a loopback device.
pub fn find(sandbox: &Sandbox, name: &str, place: Place) -> Result<Parent> {
    let link = look_up(place.socket(sandbox)?, name, place)?;
    Ok(Parent { link, place })
}

/// The parent that `link` stands on, if it is at `place`.
///
/// # Errors
/// The kernel's.
pub fn below(sandbox: &Sandbox, link: &Link, place: Place) -> Result<Option<Parent>> {
    let found = match link::get_by_index(place.socket(sandbox)?, link.link.unwrap_or_default()) {
        Ok(found) => found,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(kernel(e)),
    };
    Ok(Some(Parent { link: found, place }))
}

impl Parent {
    /// A link cannot send longer packets than its parent.
    ///
    /// # Errors
    /// Code 7, naming both sizes.
    pub fn check_mtu(&self, mtu: Option<u32>) -> Result<()> {
        match mtu {
            Some(mtu) if mtu > self.link.mtu => Err(Error::invalid_config(format!(
                "load network configuration: invalid MTU {mtu}, must be [0, master MTU({})]: {} is the parent",
                self.link.mtu, self.link.name
            ))),
            _ => Ok(()),
        }
    }

    /// Some kinds of links cannot be set up on a parent that is down.
    ///
    /// # Errors
    /// It is down.
    pub fn check_up(&self) -> Result<()> {
        match self.link.is_up() {
            true => Ok(()),
            false => Err(Error::internal(down(&self.link))),
        }
    }

    /// CHECK: `link` stands on this parent.
    ///
    /// # Errors
    /// Names the parent.
    pub fn verify(&self, sandbox: &Sandbox, link: &Link) -> Result<()> {
        let netns_id = match self.place {
            Place::Host => netns::nsid(sandbox.container()?, sandbox.home()).map_err(kernel)?,
            Place::Container => None,
        };
        match link.link == Some(self.link.index) && link.link_netns_id == netns_id {
            true => Ok(()),
            false => Err(Error::internal(format!(
                "check {}: its parent is not {}, as promised",
                link.name, self.link.name
            ))),
        }
    }

    /// The kernel's refusal of a link on this parent, with what the reader can
    /// do about it.
    pub fn refused(&self, error: linux::Error, sandbox: &Sandbox, child: Child) -> Error {
        let error = error.context(format_args!("in {}", sandbox.request.sandbox()));
        let Ok(socket) = self.place.socket(sandbox) else { return kernel(error) };
        let seen = child.obstacle(socket, &self.link).ok().flatten();
        let why = seen.or_else(|| child.likely_obstacle(&error).map(str::to_owned));
        kernel(match why {
            Some(why) => error.hint(unusable(&self.link, &why)),
            None => ability::explain(error, socket, child.kind()),
        })
    }
}

/// STATUS: the parent called `name` is on the host, up, bears a `child`, and lets
/// through packets of `mtu`; without a name, that of the default route.
///
/// # Errors
/// Code 50, saying what is not so; code 7 for the MTU.
pub fn status(name: &str, mtu: Option<u32>, child: Child) -> Result<()> {
    let host = Socket::route().map_err(kernel)?;
    let link = look_up(&host, name, Place::Host).map_err(|e| e.with_code(Code::NOT_AVAILABLE))?;
    if !link.is_up() {
        return Err(Error::not_available(down(&link)));
    }
    match child.obstacle(&host, &link)? {
        None => Parent { link, place: Place::Host }.check_mtu(mtu),
        Some(why) => Err(Error::not_available(unusable(&link, &why))),
    }
}

fn down(link: &Link) -> String {
    format!("use parent link {0}: it is down: ip link set {0} up", link.name)
}

fn unusable(link: &Link, why: &str) -> String {
    format!("use parent link {}: {why}: name another as master", link.name)
}

fn look_up(socket: &Socket, name: &str, place: Place) -> Result<Link> {
    let place = place.described();
    let link = if name.is_empty() {
        let index = default_route_link(socket)?.ok_or_else(|| {
            Error::internal(format!(
                "find the parent link: no default route interface found {place}: name one as master"
            ))
        })?;
        link::get_by_index(socket, index).map_err(kernel)?
    } else {
        link::find(socket, name).map_err(kernel)?.ok_or_else(|| {
            Error::internal(format!(
                "find the parent link (master): Link not found: there is no {name} {place}"
            ))
        })?
    };
    match link.is_loopback() {
        false => Ok(link),
        true => Err(Error::internal(format!(
            "use parent link {}: a loopback device cannot be one: name another as master",
            link.name
        ))),
    }
}

/// The link the most preferred default route of the main table leaves by.
fn default_route_link(socket: &Socket) -> Result<Option<u32>> {
    for family in [Family::V4, Family::V6] {
        let filter = Filter { family: Some(family), ..Filter::MAIN };
        let mut routes = route::list(socket, filter).map_err(kernel)?;
        // A stable sort: of equal metrics the first listed counts.
        routes.sort_by_key(|route| route.priority.unwrap_or_default());
        if let Some(index) = routes.iter().find_map(way_out) {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Of several next hops the first is as good as any. `unreachable` and the like
/// lead nowhere.
fn way_out(route: &Route) -> Option<u32> {
    if !route.is_default() || route.kind != RouteKind::UNICAST {
        return None;
    }
    route.oif.or_else(|| route.next_hops.first().map(|hop| hop.oif))
}
