use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

fn id(container_id: &str, ifname: &str) -> AttachmentId {
    AttachmentId { container_id: container_id.into(), ifname: ifname.into() }
}

fn backup(mtu: Option<u32>, netns_inode: u64, index: u32) -> Backup {
    let boot_id = format!("{:032x}", store::boot_id().expect("/proc is there"));
    let origin = serde_json::json!({"network": "net", "containerID": "c", "ifname": "eth0",
        "ifindex": index, "netns": "/run/netns/c", "netnsDevice": 4, "netnsInode": netns_inode,
        "bootID": boot_id});
    let settings = Settings { mtu, ..Settings::default() };
    Backup { settings, sysctl: Values::new(), origin: Origin::read(&origin) }
}

#[test]
fn upstreams_are_read_and_ours_look_like_them() {
    let text = "{\n \"mac\": \"2e:a2:69:14:1c:c0\",\n \"promisc\": false,\n \"mtu\": 1500,\n \"allmulti\": false,\n \"txQLen\": 1000\n}";
    let read = Backup::read(&config::parse(text.as_bytes()).expect("JSON")).expect("valid");
    let settings = read.settings;
    assert_eq!(settings.mac.map(|mac| mac.to_string()).as_deref(), Some("2e:a2:69:14:1c:c0"));
    assert_eq!((settings.mtu, settings.promisc), (Some(1500), Some(false)));
    assert_eq!((settings.all_multi, settings.tx_queue_len), (Some(false), Some(1000)));
    assert_eq!(read.text(), text);

    let mut ours = backup(Some(1500), 7, 2);
    ours.sysctl = vec![("net/a/b".into(), "1\t2".into()), ("net/a/c".into(), String::new())];
    let read = Backup::read(&config::parse(ours.text().as_bytes()).expect("JSON"));
    assert_eq!(read, Some(ours));
}

#[test]
fn what_was_saved_first_stays() {
    let first = backup(Some(1500), 7, 2);
    let mut second = backup(Some(1400), 7, 2);
    second.settings.promisc = Some(false);
    let mtu = |first: &Backup, second: &Backup| first.with_later(second).settings.mtu;
    let merged = first.with_later(&second);
    assert_eq!((merged.settings.mtu, merged.settings.promisc), (Some(1500), Some(false)));
    assert_eq!(merged.origin, second.origin);
    // Upstream's does not say whose it is.
    let upstreams = Backup { origin: None, ..first.clone() };
    assert_eq!(mtu(&upstreams, &second), Some(1500));
    // Another namespace, another link.
    assert_eq!(mtu(&first, &backup(Some(1400), 8, 2)), Some(1400));
    assert_eq!(mtu(&first, &backup(Some(1400), 7, 3)), Some(1400));
    let with = |path: &str, value: &str| {
        let sysctl = vec![(path.to_owned(), value.to_owned())];
        Backup { sysctl, ..first.clone() }
    };
    assert_eq!(with("a", "1").with_later(&with("a", "2")).sysctl, with("a", "1").sysctl);
    assert_eq!(with("b", "1").with_later(&with("a", "2")).sysctl.len(), 2);
}

#[test]
fn every_attachment_has_a_file_of_its_own() {
    assert_eq!(file_names(&id("c1", "eth0"))[0], "c1_eth0.json");
    assert_eq!(file_names(&id("a_b", "c"))[0], file_names(&id("a", "b_c"))[0]);
    assert_ne!(file_names(&id("a_b", "c"))[1], file_names(&id("a", "b_c"))[1]);
    let long = file_names(&id(&"c".repeat(250), "eth0"));
    assert!(long.len() == 1 && long[0].len() == 71, "{long:?}");
}

fn read_text(bytes: &[u8]) -> Option<Backup> {
    Backup::read(&config::parse(bytes).ok()?)
}

proptest! {
    #[test]
    fn a_damaged_backup_is_read_or_none(
        damage in vec((any::<Index>(), any::<u8>()), 0..5),
        end in any::<Index>(),
        noise in vec(any::<u8>(), 0..200),
    ) {
        let mut whole = backup(Some(1500), 7, 2);
        whole.settings.mac = attach::mac::parse("02:00:00:00:00:01").ok();
        whole.sysctl = vec![("net/ipv4/conf/eth0/arp_notify".into(), "1".into())];
        let mut bytes = whole.text().into_bytes();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let cut = &bytes[..end.index(bytes.len())];
        for bytes in [&bytes, cut, &noise] {
            if let Some(read) = read_text(bytes) {
                prop_assert_eq!(read_text(read.text().as_bytes()), Some(read));
            }
        }
    }
}
