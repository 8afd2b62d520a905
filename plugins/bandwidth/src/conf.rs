//! What the user wrote, and what it means.

use cni::{Error, Network, Result};
use linux::tc::{Fill, Tbf};
use serde::Deserialize;
use std::fmt;
use std::ops::RangeInclusive;

use crate::place::{Place, Side};

/// How long a packet waits at most where no burst came before, unless `latency`
/// says otherwise. Upstream's.
const LATENCY_MS: u64 = 25;

/// The longest `latency`: a packet of 10 s ago is of no use to anybody.
const LATENCY_MAX_MS: u64 = 10_000;

/// A default burst is what the rate lets through in this part of a second, ..
const BURST_PART: u64 = 10;

/// .. and at least so many packets of the largest size. With fewer, TCP comes to
/// four fifths of a rate below 500 kbit/s, for packets arrive by twos.
const BURST_PACKETS: u64 = 8;

/// Bytes of a link's MTU (`ETH_MIN_MTU`, `ETH_MAX_MTU`, include/uapi/linux/if_ether.h).
const MTUS: RangeInclusive<u32> = 68..=65_535;

/// The bytes of a burst are 32 bits. Upstream refuses the largest number, too.
const BURST_MAX: u64 = u32::MAX as u64 - 1;

/// Bytes of an Ethernet header, which buckets count and MTUs do not.
const HEADER: u64 = 14;

/// Four keys that stand at the top or, from the runtime, in
/// `runtimeConfig.bandwidth`: bits per second, and bits.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Rates {
    #[serde(rename = "ingressRate")]
    ingress_rate: Option<u64>,
    #[serde(rename = "ingressBurst")]
    ingress_burst: Option<u64>,
    #[serde(rename = "egressRate")]
    egress_rate: Option<u64>,
    #[serde(rename = "egressBurst")]
    egress_burst: Option<u64>,
}

/// The other keys.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    latency: Option<u64>,
    #[serde(rename = "runtimeConfig")]
    runtime_config: RuntimeConf,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RuntimeConf {
    bandwidth: Rates,
}

/// What ADD makes and CHECK expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) to_container: Option<Limit>,
    pub(crate) from_container: Option<Limit>,
}

impl Plan {
    /// Decides everything that can be decided without looking at the host.
    /// `None` when nothing is limited.
    ///
    /// # Errors
    /// Code 7 for what contradicts itself, or cannot be.
    pub(crate) fn of(network: &Network) -> Result<Option<Plan>> {
        let (conf, own): (Conf, Rates) = (network.conf()?, network.conf()?);
        let latency_ms = conf.latency.unwrap_or(LATENCY_MS);
        if latency_ms > LATENCY_MAX_MS {
            return Err(invalid(format_args!(
                "latency {latency_ms} must be at most {LATENCY_MAX_MS} milliseconds"
            )));
        }
        // Any key of the configuration's own hides all of the runtime's, as
        // upstream.
        let rates = if own.is_empty() { conf.runtime_config.bandwidth } else { own };
        let plan = Plan {
            to_container: limit("ingress", rates.ingress_rate, rates.ingress_burst, latency_ms)?,
            from_container: limit("egress", rates.egress_rate, rates.egress_burst, latency_ms)?,
        };
        Ok(Some(plan).filter(|plan| plan.to_container.is_some() || plan.from_container.is_some()))
    }
}

impl Rates {
    fn is_empty(&self) -> bool {
        let Rates { ingress_rate, ingress_burst, egress_rate, egress_burst } = self;
        [ingress_rate, ingress_burst, egress_rate, egress_burst].iter().all(|key| key.is_none())
    }
}

/// A limit in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Bytes per second, at least 1.
    rate: u64,
    /// Bytes; `None` for what suits.
    burst: Option<u32>,
    latency_ms: u64,
}

fn limit(
    direction: &str,
    rate: Option<u64>,
    burst: Option<u64>,
    latency_ms: u64,
) -> Result<Option<Limit>> {
    let (bits, burst_bits) = (rate.unwrap_or_default(), burst.unwrap_or_default());
    let burst = u32::try_from(burst_bits / 8).ok().filter(|&burst| u64::from(burst) <= BURST_MAX);
    match (bits, burst_bits) {
        (0, 0) => Ok(None),
        (0, _) => Err(invalid(format_args!(
            "{direction}Burst is set and {direction}Rate is not: if burst is set, rate must also be set"
        ))),
        (1..8, _) => Err(invalid(format_args!(
            "{direction}Rate {bits} is less than a byte per second: rates are in bits per second, at least 8"
        ))),
        (_, 1..8) => Err(invalid(format_args!(
            "{direction}Burst {burst_bits} is less than a byte: bursts are in bits, at least 8; 0 is the default"
        ))),
        (_, _) if burst.is_none() => Err(invalid(format_args!(
            "{direction}Burst {burst_bits} is too large: burst cannot be more than 4GB, which is {} bits",
            BURST_MAX * 8 + 7
        ))),
        (_, 0) => Ok(Some(Limit { rate: bits / 8, burst: None, latency_ms })),
        (_, _) => Ok(Some(Limit { rate: bits / 8, burst, latency_ms })),
    }
}

impl Limit {
    /// The token bucket for a link with this MTU, in bytes.
    pub(crate) fn bucket(&self, mtu: u32) -> Tbf {
        let burst = self.burst(mtu);
        // Upstream counts in whole microseconds; so that it finds what it
        // expects, so do we, as long as they are exact enough.
        let us = u64::from(burst) * 1_000_000 / self.rate;
        let fill = match u32::try_from(us * 1000 / 64) {
            Ok(ticks) if us >= 1000 => Fill::Ticks(ticks),
            _ => Fill::Bytes(burst),
        };
        let limit = u32::try_from(self.waiting() + u128::from(burst)).unwrap_or(u32::MAX);
        Tbf { rate: self.rate, fill, limit }
    }

    /// Bytes that may wait besides the burst.
    fn waiting(&self) -> u128 {
        u128::from(self.rate) * u128::from(self.latency_ms) / 1000
    }

    /// Whether the kernel shows the token bucket of such a link; or, in a
    /// container, that of the MTU which the link had before a plugin behind this
    /// one changed it.
    pub(crate) fn is_shown_as(&self, shown: &Tbf, place: &Place) -> bool {
        let earlier = self.mtu_behind(shown).filter(|_| place.side == Side::Container);
        let mut mtus = [Some(place.mtu), earlier].into_iter().flatten();
        mtus.any(|mtu| self.bucket(mtu).is_shown_as(shown))
    }

    /// The MTU that makes the default burst that is shown.
    fn mtu_behind(&self, shown: &Tbf) -> Option<u32> {
        let burst = u128::from(shown.limit).checked_sub(self.waiting())?;
        let packet = (burst / u128::from(BURST_PACKETS)).checked_sub(u128::from(HEADER))?;
        u32::try_from(packet).ok().filter(|mtu| self.burst.is_none() && MTUS.contains(mtu))
    }

    pub(crate) fn rate(&self) -> u64 {
        self.rate
    }

    fn burst(&self, mtu: u32) -> u32 {
        self.burst.unwrap_or_else(|| {
            let least = BURST_PACKETS * (u64::from(mtu) + HEADER);
            let burst = (self.rate / BURST_PART).max(least).min(BURST_MAX);
            u32::try_from(burst).expect("BURST_MAX has 32 bits")
        })
    }

    /// Whether packets of the largest size never fit the bucket.
    pub(crate) fn drops_large_packets(&self, mtu: u32) -> bool {
        u64::from(self.burst(mtu)) < u64::from(mtu) + HEADER
    }
}

fn invalid(text: fmt::Arguments) -> Error {
    Error::invalid_config(format!("load network configuration: {text}"))
}

#[cfg(test)]
mod tests;
