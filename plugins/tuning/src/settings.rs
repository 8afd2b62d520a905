//! The settings of the link itself.
//!
//! Like `ip link set dev eth0 address M mtu N promisc on allmulticast on
//! txqueuelen Q`.

use crate::conf::Plan;
use attach::{kernel, neighbours};
use cni::{Error, Result};
use linux::Socket;
use linux::link::{self, Change, Link, Mac};

/// Values of settings; `None` is none of our business.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) mac: Option<Mac>,
    pub(crate) promisc: Option<bool>,
    /// In bytes.
    pub(crate) mtu: Option<u32>,
    pub(crate) all_multi: Option<bool>,
    /// In packets.
    pub(crate) tx_queue_len: Option<u32>,
}

impl Settings {
    /// What ADD gives the link.
    pub(crate) fn wanted(plan: &Plan) -> Settings {
        Settings {
            mac: plan.mac,
            promisc: plan.promisc.then_some(true),
            mtu: plan.mtu,
            all_multi: plan.all_multi,
            tx_queue_len: plan.tx_queue_len,
        }
    }

    /// What the link has now, of all that is in `self`. A capture that makes the
    /// link promiscuous is not its own setting.
    pub(crate) fn now(&self, link: &Link) -> Settings {
        Settings {
            mac: self.mac.and(link.mac),
            promisc: self.promisc.map(|_| link.is_promisc()),
            mtu: self.mtu.map(|_| link.mtu),
            all_multi: self.all_multi.map(|_| link.is_all_multi()),
            tx_queue_len: self.tx_queue_len.map(|_| link.tx_queue_len),
        }
    }

    /// Which they are, as a configuration calls them.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static str> {
        let keys = [
            ("mac", self.mac.is_some()),
            ("promisc", self.promisc.is_some()),
            ("mtu", self.mtu.is_some()),
            ("allmulti", self.all_multi.is_some()),
            ("txQLen", self.tx_queue_len.is_some()),
        ];
        keys.into_iter().filter(|(_, is_set)| *is_set).map(|(key, _)| key)
    }

    /// These, and of `later` what is not among them.
    pub(crate) fn or(self, later: Settings) -> Settings {
        Settings {
            mac: self.mac.or(later.mac),
            promisc: self.promisc.or(later.promisc),
            mtu: self.mtu.or(later.mtu),
            all_multi: self.all_multi.or(later.all_multi),
            tx_queue_len: self.tx_queue_len.or(later.tx_queue_len),
        }
    }

    /// Gives the link these settings, as far as it has others. Routes stay, and those who know the link by its old address are
    /// told the new one.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn apply(&self, socket: &Socket, link: &Link) -> Result<()> {
        let now = self.now(link);
        let named = |error: linux::Error| kernel(error).context(format!("tune {}", link.name));
        let (mut change, mut is_any) = (Change::new(link.index), false);
        if let Some(mtu) = self.mtu.filter(|_| self.mtu != now.mtu) {
            (change, is_any) = (change.mtu(mtu), true);
        }
        if let Some(on) = self.promisc.filter(|_| self.promisc != now.promisc) {
            (change, is_any) = (change.promisc(on), true);
        }
        if let Some(on) = self.all_multi.filter(|_| self.all_multi != now.all_multi) {
            (change, is_any) = (change.all_multi(on), true);
        }
        if let Some(packets) = self.tx_queue_len.filter(|_| self.tx_queue_len != now.tx_queue_len) {
            (change, is_any) = (change.tx_queue_len(packets), true);
        }
        let others = if is_any { change.apply(socket).map_err(named) } else { Ok(()) };
        let mac = match self.mac.filter(|_| self.mac != now.mac) {
            None => Ok(()),
            Some(mac) => neighbours::while_announcing(&link.name, || {
                link::set_mac_and_keep_routes(socket, link, mac).map_err(named)
            }),
        };
        Error::all([mac, others])
    }

    /// CHECK: the link has these settings.
    ///
    /// # Errors
    /// Names the first that it has not.
    pub(crate) fn verify(&self, link: &Link) -> Result<()> {
        let now = self.now(link);
        let name = &link.name;
        let differs = |what: &str, now: String, wanted: String| {
            Err(Error::internal(format!(
                "check {name}: its {what} is {now}, configured was {wanted}"
            )))
        };
        let on = |on: Option<bool>| if on == Some(true) { "on" } else { "off" }.to_owned();
        let number = |number: Option<u32>| number.unwrap_or_default().to_string();
        let mac = |mac: Option<Mac>| mac.map(|mac| mac.to_string()).unwrap_or_default();
        if now.mac != self.mac {
            return differs("MAC", mac(now.mac), mac(self.mac));
        }
        if now.promisc != self.promisc {
            return differs("promiscuous mode", on(now.promisc), on(self.promisc));
        }
        if now.mtu != self.mtu {
            return differs("mtu", number(now.mtu), number(self.mtu));
        }
        if now.all_multi != self.all_multi {
            return differs("all-multicast mode", on(now.all_multi), on(self.all_multi));
        }
        if now.tx_queue_len != self.tx_queue_len {
            return differs("txQLen", number(now.tx_queue_len), number(self.tx_queue_len));
        }
        Ok(())
    }
}
