use super::*;
use std::ffi::OsString;

fn plan(keys: &str) -> Result<Option<Plan>> {
    let text = format!("{{\"name\":\"net\",\"type\":\"bandwidth\"{keys}}}");
    let network = Network::new(text.into_bytes(), OsString::new(), &[]).expect("a network");
    Plan::of(&network)
}

fn one(keys: &str) -> Limit {
    plan(keys).expect("valid").expect("a limit").to_container.expect("towards the container")
}

#[test]
fn values_are_upstreams() {
    let both = plan(
        r#","ingressRate":8000000,"ingressBurst":1600000,"egressRate":1600000,"egressBurst":800000"#,
    );
    let both = both.expect("valid").expect("limits");
    let (to, from) = (both.to_container.expect("to"), both.from_container.expect("from"));
    assert_eq!(
        to.bucket(1500),
        Tbf { rate: 1_000_000, fill: Fill::Ticks(3_125_000), limit: 225_000 }
    );
    assert_eq!(
        from.bucket(1500),
        Tbf { rate: 200_000, fill: Fill::Ticks(7_812_500), limit: 105_000 }
    );
    // Of its own tests: one byte a second, and one byte of burst.
    let least = one(r#","ingressRate":8,"ingressBurst":8"#);
    assert_eq!(least.bucket(1500), Tbf { rate: 1, fill: Fill::Ticks(15_625_000), limit: 1 });
    assert!(least.drops_large_packets(1500) && !to.drops_large_packets(1500));
}

#[test]
fn nothing_is_nothing() {
    for keys in [
        "",
        r#","ingressRate":0"#,
        r#","ingressRate":null,"runtimeConfig":null"#,
        r#","runtimeConfig":{"bandwidth":{"ingressRate":0,"egressBurst":0}}"#,
        r#","runtimeConfig":{"bandwidth":null},"latency":50"#,
        // A key of its own hides the runtime's, whatever it says.
        r#","egressBurst":0,"runtimeConfig":{"bandwidth":{"ingressRate":8000}}"#,
    ] {
        assert_eq!(plan(keys), Ok(None), "{keys}");
    }
}

#[test]
fn the_runtimes_values_count_where_there_are_no_others() {
    let runtime = r#","runtimeConfig":{"bandwidth":{"ingressRate":8000,"INGRESSBURST":16000}}"#;
    assert_eq!(one(runtime), one(r#","ingressRate":8000,"ingressBurst":16000"#));
}

#[test]
fn a_default_burst_is_a_tenth_of_a_second_and_eight_packets() {
    let burst = |rate: u64, mtu: u32| one(&format!(",\"ingressRate\":{rate}")).burst(mtu);
    assert_eq!(burst(100_000_000, 1500), 1_250_000);
    assert_eq!(burst(8, 1500), 8 * 1514);
    assert_eq!(burst(8, 9000), 8 * 9014);
    assert_eq!(u64::from(burst(u64::MAX, 1500)), BURST_MAX);
    // 0 is what runtimes send for a burst that nobody gave.
    assert_eq!(one(r#","ingressRate":8000,"ingressBurst":0"#), one(r#","ingressRate":8000"#));
}

#[test]
fn huge_values_are_right() {
    // What runtimes of Kubernetes send where only a rate is annotated.
    let limit = one(r#","ingressRate":1000000,"ingressBurst":2147483647"#);
    let bucket = limit.bucket(1500);
    assert_eq!((bucket.rate, bucket.fill), (125_000, Fill::Bytes(268_435_455)));
    assert_eq!(bucket.limit, 268_435_455 + 3_125);
    let limit = one(r#","ingressRate":18446744073709551615,"ingressBurst":34359738359"#);
    let bucket = limit.bucket(1500);
    assert_eq!((bucket.rate, bucket.limit), (u64::MAX / 8, u32::MAX));
    assert_eq!(bucket.fill, Fill::Bytes(u32::MAX - 1));
}

#[test]
fn latency_is_how_long_packets_wait() {
    let limit = |ms: u64| {
        one(&format!(",\"ingressRate\":8000000,\"ingressBurst\":800000,\"latency\":{ms}"))
            .bucket(1500)
            .limit
    };
    assert_eq!([0, 5, 25, 10_000].map(limit), [100_000, 105_000, 125_000, 10_100_000]);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (keys, part) in [
        (r#","ingressBurst":8"#, "ingressBurst is set and ingressRate is not"),
        (r#","egressBurst":8,"egressRate":0"#, "egressBurst is set"),
        (r#","egressRate":7"#, "egressRate 7 is less than a byte"),
        (r#","ingressRate":8,"ingressBurst":34359738360"#, "cannot be more than 4GB"),
        (r#","ingressRate":8,"ingressBurst":18446744073709551615"#, "cannot be more than 4GB"),
        (r#","ingressRate":-8"#, "ingressRate"),
        (r#","ingressRate":18446744073709551616"#, "ingressRate"),
        (r#","ingressRate":8.5"#, "ingressRate"),
        (r#","ingressRate":"8M""#, "ingressRate"),
        (r#","runtimeConfig":{"bandwidth":{"egressRate":-1}}"#, "bandwidth.egressRate"),
        (r#","latency":10001"#, "latency 10001 must be at most"),
        (r#","latency":-1"#, "latency"),
    ] {
        let error = plan(keys).expect_err(keys);
        assert_eq!(error.code(), cni::Code::INVALID_CONFIG, "{keys}");
        assert!(error.msg().contains(part), "{keys}: {error}");
    }
}
