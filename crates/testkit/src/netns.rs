//! What the host and its containers have in common: both are network
//! namespaces in which commands run, links exist and packets arrive.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::{Path, PathBuf};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use serde_json::Value;

use crate::capture::Capture;
use crate::command::{Argv, Command, Output, in_netns};
use crate::host::World;
use crate::json::parse_list;
use crate::sctp::{self, SctpListener};
use crate::snapshot::{self, Snapshot};
use crate::traffic::{self, EchoServer};

/// A network namespace under test: the host's or a container's.
pub trait Netns: Sync {
    /// The path to enter it by, or `None` for the host, where the test's
    /// thread is already.
    fn netns(&self) -> Option<&Path>;

    /// How failures call it: "host" or the container's name.
    fn place(&self) -> &str;

    /// The fake machine it belongs to.
    #[doc(hidden)]
    fn world(&self) -> &World;

    /// Calls `work` in a thread that is in this namespace.
    ///
    /// # Panics
    /// When the namespace cannot be entered.
    #[track_caller]
    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T
    where
        Self: Sized,
    {
        match self.netns() {
            None => work(),
            Some(path) => match in_netns(path, work) {
                Ok(value) => value,
                Err(reason) => panic!("{reason}"),
            },
        }
    }

    /// Runs a command, whatever its exit status. A failure is written to the
    /// journal.
    #[track_caller]
    fn try_exec(&self, argv: impl Argv) -> Output
    where
        Self: Sized,
    {
        let netns = self.netns().map(Path::to_owned);
        let output = Command::new(&argv, self.place(), netns).run();
        if !output.success() {
            self.world().note(output.to_string());
        }
        output
    }

    /// Runs a command that must succeed and gives its standard output.
    ///
    /// # Panics
    /// When it fails, with its output.
    #[track_caller]
    fn exec(&self, argv: impl Argv) -> String
    where
        Self: Sized,
    {
        self.try_exec(argv).expect_success()
    }

    /// What `ip -json -details <words>` prints, one value per object:
    /// `host.ip("link show type bridge")`.
    #[track_caller]
    fn ip(&self, words: &str) -> Vec<Value>
    where
        Self: Sized,
    {
        let text = self.exec(format!("ip -json -details {words}"));
        parse_list(&text).unwrap_or_else(|e| panic!("ip {words}: {e}"))
    }

    /// A link as `ip -json -details link show dev <name>` shows it, or `None`
    /// when there is none of this name or altname.
    #[track_caller]
    fn link(&self, name: &str) -> Option<Value>
    where
        Self: Sized,
    {
        let by_name = |link: &Value| {
            let altnames = link["altnames"].as_array();
            link["ifname"] == name || altnames.is_some_and(|a| a.iter().any(|n| n == name))
        };
        self.ip("link show").into_iter().find(by_name)
    }

    /// The names of all links, in the order of their index.
    #[track_caller]
    fn links(&self) -> Vec<String>
    where
        Self: Sized,
    {
        self.ip("link show")
            .iter()
            .filter_map(|l| l["ifname"].as_str().map(str::to_owned))
            .collect()
    }

    /// The MAC address of a link, in lower case.
    ///
    /// # Panics
    /// When there is no such link.
    #[track_caller]
    fn mac(&self, name: &str) -> String
    where
        Self: Sized,
    {
        let link = self.link(name);
        let mac = link.as_ref().and_then(|link| link["address"].as_str());
        mac.unwrap_or_else(|| panic!("no link {name} in {}", self.place())).to_owned()
    }

    /// The addresses of a link with their prefix lengths, `10.1.0.2/24`, IPv4
    /// first; link-local IPv6 addresses are left out.
    #[track_caller]
    fn addresses(&self, name: &str) -> Vec<String>
    where
        Self: Sized,
    {
        let links = self.ip(&format!("address show dev {name}"));
        let infos = links.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
        infos
            .filter(|info| info["family"] == "inet" || info["scope"] != "link")
            .filter_map(|info| Some(format!("{}/{}", info["local"].as_str()?, info["prefixlen"])))
            .collect()
    }

    /// The names of all links, and with each its addresses, `eth0 10.1.0.2/24`, but for
    /// link-local IPv6 addresses, which come and go with the carrier. Starts no program,
    /// for those who look a thousand times.
    ///
    /// # Panics
    /// When the kernel does not tell.
    #[track_caller]
    fn links_and_addresses(&self) -> BTreeSet<String>
    where
        Self: Sized,
    {
        let read = || getifaddrs().map(|all| all.filter_map(|one| link_or_address(&one)).collect());
        self.within(read).unwrap_or_else(|e| panic!("getifaddrs in {}: {e}", self.place()))
    }

    /// The routes of both families as `ip route` prints them, one a line;
    /// `table` is a number, a name or `all`. What follows `table` is passed
    /// on: `routes("main proto kernel")`.
    #[track_caller]
    fn routes(&self, table: &str) -> Vec<String>
    where
        Self: Sized,
    {
        let mut routes = Vec::new();
        for family in ["-4", "-6"] {
            // A table that was never used is an error to the kernel
            // ("FIB table does not exist"); here it has no routes.
            let output = self.try_exec(format!("ip {family} route show table {table}"));
            if output.success() {
                routes.extend(output.stdout.lines().map(|line| line.trim_end().to_owned()));
            }
        }
        routes
    }

    /// A sysctl of this namespace by its path below /proc/sys, such as
    /// `net/ipv4/ip_forward`; `None` when there is none.
    #[track_caller]
    fn sysctl(&self, path: &str) -> Option<String>
    where
        Self: Sized,
    {
        let file = PathBuf::from("/proc/sys").join(path);
        self.within(|| fs::read_to_string(file)).ok().map(|text| text.trim().to_owned())
    }

    /// Sets a sysctl of this namespace.
    ///
    /// # Panics
    /// When the kernel refuses it.
    #[track_caller]
    fn set_sysctl(&self, path: &str, value: &str)
    where
        Self: Sized,
    {
        let file = PathBuf::from("/proc/sys").join(path);
        self.within(|| fs::write(file, value))
            .unwrap_or_else(|e| panic!("set {path}={value}: {e}"));
    }

    /// Fails the test unless `address` answers a ping within some seconds.
    ///
    /// # Panics
    /// With ping's output and this namespace's links and routes.
    #[track_caller]
    fn expect_ping(&self, address: &str)
    where
        Self: Sized,
    {
        // -w ends ping at its deadline, and with -c 1 at the first answer.
        let output = self.try_exec(format!("ping -n -i 0.3 -c 1 -w 8 {address}"));
        if !output.success() {
            let state = self.try_exec("ip address").stdout + &self.routes("main").join("\n");
            panic!("{} cannot ping {address}\n{output}\n{state}", self.place());
        }
    }

    /// Whether `address` answers a ping within one second; to show that it
    /// does not. Use `expect_ping` where it must.
    #[track_caller]
    fn answers_ping(&self, address: &str) -> bool
    where
        Self: Sized,
    {
        self.try_exec(format!("ping -n -c 1 -W 1 {address}")).success()
    }

    /// Serves TCP and UDP on `port` of every address here until dropped. It
    /// answers with the address that it saw the client come from.
    #[track_caller]
    fn echo_server(&self, port: u16) -> EchoServer
    where
        Self: Sized,
    {
        self.within(|| EchoServer::start(port))
    }

    /// Connects by TCP to an echo server and gives the address it saw us come
    /// from.
    ///
    /// # Errors
    /// The reason: refused, unreachable, no answer within the bound.
    #[track_caller]
    fn tcp(&self, server: SocketAddr) -> Result<SocketAddr, String>
    where
        Self: Sized,
    {
        self.within(|| traffic::ask_by_tcp(server))
            .map_err(|e| format!("tcp from {} to {server}: {e}", self.place()))
    }

    /// As `tcp`, by UDP.
    ///
    /// # Errors
    /// The reason: refused, unreachable, no answer within the bound.
    #[track_caller]
    fn udp(&self, server: SocketAddr) -> Result<SocketAddr, String>
    where
        Self: Sized,
    {
        self.within(|| traffic::ask_by_udp(server))
            .map_err(|e| format!("udp from {} to {server}: {e}", self.place()))
    }

    /// As `echo_server`, for SCTP; needs [`crate::Feature::Sctp`].
    #[track_caller]
    fn sctp_server(&self, port: u16) -> EchoServer
    where
        Self: Sized,
    {
        self.within(|| EchoServer::start_sctp(port))
    }

    /// As `tcp`, by SCTP.
    ///
    /// # Errors
    /// The reason: refused, unreachable, no answer within the bound.
    #[track_caller]
    fn sctp(&self, server: SocketAddr) -> Result<SocketAddr, String>
    where
        Self: Sized,
    {
        self.within(|| traffic::ask_by_sctp(server))
            .map_err(|e| format!("sctp from {} to {server}: {e}", self.place()))
    }

    /// Sends an ICMPv6 message, from its type on, to an address of the link
    /// whose index is the target's scope; the kernel fills in the checksum.
    ///
    /// # Panics
    /// When the kernel refuses to send it.
    #[track_caller]
    fn send_icmpv6(&self, target: SocketAddrV6, message: &[u8])
    where
        Self: Sized,
    {
        self.within(|| traffic::send_icmpv6(target, message))
            .unwrap_or_else(|e| panic!("send ICMPv6 from {} to {target}: {e}", self.place()));
    }

    /// Receives SCTP packets from now on; needs no kernel that speaks SCTP.
    ///
    /// # Panics
    /// When no raw socket may be opened.
    #[track_caller]
    fn sctp_listener(&self) -> SctpListener
    where
        Self: Sized,
    {
        self.within(SctpListener::open).unwrap_or_else(|e| panic!("listen to SCTP: {e}"))
    }

    /// Sends the first packet of an SCTP association.
    ///
    /// # Panics
    /// When it cannot be sent.
    #[track_caller]
    fn send_sctp(&self, to: SocketAddrV4)
    where
        Self: Sized,
    {
        self.within(|| sctp::send(40_000, to)).unwrap_or_else(|e| panic!("send SCTP to {to}: {e}"));
    }

    /// Starts to record every frame that any link here receives or sends.
    #[track_caller]
    fn capture(&self) -> Capture
    where
        Self: Sized,
    {
        self.within(Capture::start)
    }

    /// All that a plugin can change in this network namespace, as text. The
    /// host's own [`crate::Host::snapshot`] has its files as well.
    #[track_caller]
    fn network_snapshot(&self) -> Snapshot
    where
        Self: Sized,
    {
        snapshot::of_network(self)
    }

    /// Waits until no address of a link with carrier is still being checked
    /// for duplicates: until then the kernel neither sends from it nor shows
    /// its routes.
    ///
    /// # Panics
    /// When that takes longer than some seconds.
    #[track_caller]
    fn wait_for_addresses(&self)
    where
        Self: Sized,
    {
        snapshot::wait_for_addresses(self);
    }

    /// An IP address of a link, the first that is not link-local.
    ///
    /// # Panics
    /// When it has none.
    #[track_caller]
    fn address(&self, name: &str) -> IpAddr
    where
        Self: Sized,
    {
        let all = self.addresses(name);
        let first = all.first().and_then(|text| text.split('/').next());
        let address = first.and_then(|text| text.parse().ok());
        address.unwrap_or_else(|| panic!("{name} in {} has no address", self.place()))
    }
}

fn link_or_address(found: &InterfaceAddress) -> Option<String> {
    let name = &found.interface_name;
    let (Some(address), Some(mask)) = (&found.address, &found.netmask) else {
        return Some(name.clone());
    };
    if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
        return Some(format!("{name} {}/{}", address.ip(), mask.ip().to_bits().count_ones()));
    }
    if let (Some(address), Some(mask)) = (address.as_sockaddr_in6(), mask.as_sockaddr_in6()) {
        let prefix = mask.ip().to_bits().count_ones();
        let lasts = !address.ip().is_unicast_link_local();
        return lasts.then(|| format!("{name} {}/{prefix}", address.ip()));
    }
    Some(name.clone())
}
