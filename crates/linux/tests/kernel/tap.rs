use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use linux::link::{self, LinkInfo, VethPeer, VethSpec};
use linux::tap::{self, TapSpec};
use linux::{ErrorKind, Socket, addr, announce};
use nix::poll::{PollFd, PollFlags, poll};

use crate::host::{in_new_namespace, tool};

/// Not every machine has it, and a user namespace may not open it.
fn has_tun() -> bool {
    fs::File::options().read(true).write(true).open("/dev/net/tun").is_ok()
}

fn info(socket: &Socket, name: &str) -> LinkInfo {
    link::get(socket, name).unwrap().info
}

/// The next frame the link sends, within some seconds.
fn read_frame(program: &mut fs::File) -> Vec<u8> {
    let mut ready = [PollFd::new(program.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ready, 5000_u16), Ok(1), "no frame came");
    let mut frame = vec![0; 2048];
    let len = program.read(&mut frame).unwrap();
    frame.truncate(len);
    frame
}

#[test]
fn a_tap_is_what_was_asked_for() {
    if !has_tun() {
        return;
    }
    in_new_namespace(|socket| {
        TapSpec { name: "plain", ..TapSpec::default() }.create().unwrap();
        let plain =
            LinkInfo::Tap { owner: None, group: None, multi_queue: false, persistent: true };
        assert_eq!(info(socket, "plain"), plain);
        let spec = TapSpec {
            name: "owned",
            owner: Some(0),
            group: Some(0),
            multi_queue: true,
            selinux_context: None,
        };
        spec.create().unwrap();
        let owned =
            LinkInfo::Tap { owner: Some(0), group: Some(0), multi_queue: true, persistent: true };
        assert_eq!(info(socket, "owned"), owned);
        let shown = tool("ip -d link show owned");
        assert!(shown.contains("tun type tap pi off vnet_hdr off multi_queue"), "{shown}");
        assert!(shown.contains("persist on user root group root"), "{shown}");
        link::delete_named(socket, "owned").unwrap();
        link::delete_named(socket, "plain").unwrap();
    });
}

#[test]
fn a_name_that_is_used_is_refused_whoever_has_it() {
    if !has_tun() {
        return;
    }
    in_new_namespace(|socket| {
        // Down, for the state of one that is set up changes a moment later.
        let peer = VethPeer { name: "two", ..VethPeer::default() };
        VethSpec { name: "one", peer, ..VethSpec::default() }.create(socket).unwrap();
        TapSpec { name: "tap0", ..TapSpec::default() }.create().unwrap();
        let before = link::list(socket).unwrap();
        for name in ["one", "tap0", "lo"] {
            let error = TapSpec { name, ..TapSpec::default() }.create().unwrap_err();
            assert!(error.is_exists(), "{error}");
        }
        for name in ["", "a/b", "tap%d", "sixteen-letters-"] {
            let error = TapSpec { name, ..TapSpec::default() }.create().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        }
        assert_eq!(link::list(socket).unwrap(), before);
    });
}

#[test]
fn without_selinux_a_context_is_an_error_and_nothing_is_made() {
    if !has_tun() || fs::exists("/sys/fs/selinux/enforce").unwrap() {
        return;
    }
    in_new_namespace(|socket| {
        let spec = TapSpec {
            name: "tap0",
            selinux_context: Some("system_u:system_r:container_t:s0"),
            ..TapSpec::default()
        };
        let error = spec.create().unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("change to SELinux context system_u:"), "{text}");
        assert!(link::find(socket, "tap0").unwrap().is_none());
    });
}

#[test]
fn frames_go_both_ways_between_the_link_and_the_program() {
    if !has_tun() {
        return;
    }
    in_new_namespace(|socket| {
        TapSpec { name: "tap0", ..TapSpec::default() }.create().unwrap();
        fs::write("/proc/sys/net/ipv6/conf/tap0/disable_ipv6", "1").unwrap();
        let link = link::get(socket, "tap0").unwrap();
        link::set_up(socket, link.index).unwrap();
        assert!(!link::get(socket, "tap0").unwrap().carrier);
        let mut program = tap::attach("tap0", false).unwrap();
        assert!(link::get(socket, "tap0").unwrap().carrier);
        assert!(tap::attach("tap0", false).unwrap_err().is_busy());
        assert_eq!(tap::attach("tap0", true).unwrap_err().kind(), ErrorKind::Invalid);

        let address = "10.1.0.2/24".parse().unwrap();
        addr::add(socket, &addr::Addr::new(link.index, address)).unwrap();
        let mac = link.mac.unwrap();
        announce::send(socket, link.index, mac, [address.ip()]).unwrap();
        let frame = read_frame(&mut program);
        assert_eq!(frame[6..14], [&mac.bytes()[..], &[8, 6]].concat(), "{frame:?}");

        // The program asks who has the address, and is answered.
        let (own, asked) = ([2, 0, 0, 0, 0, 9], [10, 1, 0, 2]);
        let header = [&[0xff; 6][..], &own, &[8, 6]].concat();
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &own, &[10, 1, 0, 9], &[0; 6], &asked].concat();
        program.write_all(&[header, arp].concat()).unwrap();
        let answer = read_frame(&mut program);
        assert_eq!((&answer[..6], &answer[20..22]), (&own[..], &[0, 2][..]), "{answer:?}");
        assert_eq!(answer[22..32], [&mac.bytes()[..], &asked].concat(), "{answer:?}");
    });
}
