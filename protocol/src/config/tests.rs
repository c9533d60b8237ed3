//! Whole URLs: what is accepted, what is refused and by which name, and the spelled-out form.

use alloc::string::ToString as _;
use alloc::vec;
use core::net::{IpAddr, Ipv4Addr};

use proptest::prelude::{Just, any, prop, prop_oneof, proptest};
use proptest::strategy::Strategy as Gen;

use super::super::{Facts, KeyText, ProxyVersion, Running};
use super::*;
use crate::terms::Generation;
use crate::testing::entry::config_url;

fn no_env(_: &str) -> Option<String> {
    None
}

fn parsed(url: &str) -> Parsed {
    parse(url, &no_env).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn a_tunnel(url: &str) -> Tunnel {
    match parsed(url).config {
        Config::Tunnel(tunnel) => tunnel,
        Config::Master(_) => panic!("{url} is a master"),
    }
}

fn a_master(url: &str) -> Master {
    match parsed(url).config {
        Config::Master(master) => master,
        Config::Tunnel(_) => panic!("{url} is a tunnel"),
    }
}

/// Accepted without a warning.
const GOOD: [&str; 58] = [
    "server://0.0.0.0:10101/127.0.0.1:8080",
    "server://:10101/:8080",
    "server://key@:10101/:8080",
    "server://user%3Apass@:10101/:8080",
    "server://a@b@:10101/:8080",
    "server://%E2%82%AC@:10101/:8080",
    "server://@:10101/:8080",
    "SERVER://:1/:2",
    "Client://a:1/b:2",
    "server://[::]:10101/[::1]:8080",
    "server://[2001:db8::1]:1/[::ffff:1.2.3.4]:2",
    "server://:0/:8080",
    "server://:10101/:0",
    "server://:0/:0",
    "server://:1/:0?mode=1",
    "server://:1/a:2,b:3?mode=2",
    "server://:1/a:2,b:3",
    "server://:1/a:2,[::2]:3,1.2.3.4:5?lbs=2",
    "server://0.0.0.0:443/192.168.1.5:443",
    "server://10.0.0.1:80/127.0.0.1:80",
    "server://a:1/b:2?log=debug&tls=1",
    "server://a:1/b:2?log=TRACE",
    "server://a:1/b:2?log=None",
    "server://a:1/b:2?log=event",
    "server://a:1/b:2?tls=2&crt=/etc/c.pem&key=/etc/k.pem",
    "server://a:1/b:2?tls=2&crt=C%20D.pem&key=k+1.pem",
    "server://a:1/b:2?max=1",
    "server://a:1/b:2?type=0",
    "server://a:1/b:2?proto=native",
    "server://a:1/b:2?proto=native,https,http,classic",
    "server://a:1/b:2?dial=10.0.0.9",
    "server://a:1/b:2?dial=::1&dns=0&read=0",
    "server://a:1/b:2?dns=1h30m&read=500ms",
    "server://a:1/b:2?rate=100&slot=0",
    "server://a:1/b:2?slot=4294967295",
    "server://a:1/b:2?proxy=2&block=123",
    "server://a:1/b:2?block=31",
    "server://a:1/b:2?notcp=1",
    "server://a:1/b:2?noudp=1&notcp=0",
    "server://a:1/b:2?",
    "server://a:1/b:2?&&log=&tls&",
    "client://host.example.:1/b:2",
    "client://host_1.example:1/b:2",
    "client://a:1/b:2?min=1",
    "client://a:1/b:2?min=65535",
    "client://a:1/b:2?tls=2",
    "client://a:1/b:2?tls=2&mode=2&ca=/roots.pem&sni=x.example",
    "client://a:1/b:2?sni=none",
    "client://:0/b:2?mode=1",
    "client://:0/b:2",
    "client://:1/b:2,c:3?mode=1&tls=2&crt=c&key=k",
    "client://a:1/:0?mode=2",
    "client://a:1/b:2,c:3?mode=2",
    "client://s.example:10101/127.0.0.1:10101",
    "master://0.0.0.0:9090?log=info",
    "master://:9090/admin?log=info&tls=1",
    "master://[::]:0/a@b//c//",
    "master://:9090/?tls=2&state=/var/lib/x.json",
];

#[test]
fn good_urls_are_accepted_without_a_warning() {
    for url in GOOD {
        assert_eq!(parsed(url).warnings, [""; 0], "{url}");
    }
}

#[test]
fn good_urls_survive_being_spelled_out() {
    for url in GOOD {
        config_url(url.as_bytes());
    }
}

/// Refused, and the parameter that the error names.
const BAD: [(&str, &str); 110] = [
    ("scheme", ""),
    ("scheme", "nodepass"),
    ("scheme", "server:/a:1/b:2"),
    ("scheme", "a:1/b:2"),
    ("scheme", "http://a:1/b:2"),
    ("scheme", "://a:1/b:2"),
    ("scheme", "servers://a:1/b:2"),
    ("url", "server://a:1/b:2#x"),
    ("url", "server://ke#y@a:1/b:2"),
    ("url", "server://a:1/b:2?log=in fo"),
    ("url", "server://a:1/b:2\n"),
    ("url", " server://a:1/b:2"),
    ("url", "server://a\t:1/b:2"),
    ("url", "server://a:1/b:2?crt=\u{7f}"),
    ("url", "server://%zz@a:1/b:2"),
    ("url", "server://%f@a:1/b:2"),
    ("url", "server://%ff@a:1/b:2"),
    ("url", "server://ke/y@a:1/b:2"),
    ("url", "server://ke?y@a:1/b:2"),
    ("url", "server://k@a:1/u@b:2"),
    ("url", "client://a/b:2?ca=x@y"),
    ("url", "master://key@:9090"),
    ("host", "server://a..b:1/b:2"),
    ("host", "server://::1:80/b:2"),
    ("host", "server://[::1:80/b:2"),
    ("host", "server://[1.2.3.4]:80/b:2"),
    ("host", "server://[fe80::1%25eth0]:80/b:2"),
    ("host", "server://256.0.0.1:1/b:2"),
    ("host", "server://1.2.3:1/b:2"),
    ("host", "server://a!:1/b:2"),
    ("host", "server://%61:1/b:2"),
    ("host", "client://bücher.example:1/b:2"),
    ("host", "client://a,b:1/c:2"),
    ("host", "master://a!b:1"),
    ("port", "server://"),
    ("port", "server:///b:2"),
    ("port", "server://a/b:2"),
    ("port", "server://a:/b:2"),
    ("port", "server://a:x/b:2"),
    ("port", "server://a:65536/b:2"),
    ("port", "server://a:-1/b:2"),
    ("port", "server://a:+1/b:2"),
    ("port", "server://a:0x1/b:2"),
    ("port", "server://a:123456/b:2"),
    ("port", "server://[::1]/b:2"),
    ("port", "server://[::1]x1/b:2"),
    ("port", "client://a:0/b:2?mode=2"),
    ("port", "master://"),
    ("port", "master://a"),
    ("target", "server://a:1"),
    ("target", "server://a:1/"),
    ("target", "server://a:1?log=info"),
    ("target", "server://a:1//b:2"),
    ("target", "server://a:1/b:2/"),
    ("target", "server://a:1/b"),
    ("target", "server://a:1/8080"),
    ("target", "server://a:1/b:2,"),
    ("target", "server://a:1/b:2,,c:3"),
    ("target", "server://a:1/b:2,c"),
    ("target", "server://a:1/b:65536"),
    ("target", "server://a:1/::1:2"),
    ("target", "server://a:1/a:1"),
    ("target", "server://a:1/A.:1"),
    ("target", "server://:1/127.0.0.1:1"),
    ("target", "server://0.0.0.0:1/localhost:1"),
    ("target", "client://127.0.0.1:1/127.0.0.1:1"),
    ("target", "client://:1/b:2,:1"),
    ("target", "server://:1/b:0?mode=2"),
    ("target", "server://:1/b:2,c:3?mode=1"),
    ("target", "server://:1/b:2,c:0"),
    ("target", "client://:1/b:0?mode=1"),
    ("target", "client://a:1/b:2,c:0?mode=2"),
    ("log", "server://a:1/b:2?log=verbose"),
    ("log", "master://:1?log=2"),
    ("log", "server://a:1/b:2?log=%zz"),
    ("tls", "server://a:1/b:2?tls=3"),
    ("tls", "server://a:1/b:2?tls=true"),
    ("tls", "master://:1?tls=01"),
    ("crt", "server://a:1/b:2?tls=2"),
    ("crt", "server://a:1/b:2?tls=2&key=k.pem"),
    ("crt", "client://:1/b:2?mode=1&tls=2"),
    ("crt", "client://:0/b:2?tls=2"),
    ("crt", "server://a:1/b:2?crt=a%00b"),
    ("key", "server://a:1/b:2?tls=2&crt=c.pem"),
    ("key", "server://a:1/b:2?tls=2&crt=c.pem&key="),
    ("key", "client://:0/b:2?mode=1&tls=2&crt=c.pem"),
    ("ca", "client://a:1/b:2?ca=%0A"),
    ("sni", "client://a:1/b:2?sni=1.2.3.4"),
    ("sni", "client://a:1/b:2?sni=a..b"),
    ("proto", "server://a:1/b:2?proto=quic"),
    ("proto", "server://a:1/b:2?proto=native,"),
    ("proto", "server://a:1/b:2?proto=auto,native"),
    ("min", "client://a:1/b:2?min=0"),
    ("min", "client://a:1/b:2?min=65536"),
    ("max", "server://a:1/b:2?max=0"),
    ("max", "server://a:1/b:2?max=1e3"),
    ("mode", "server://a:1/b:2?mode=3"),
    ("type", "server://a:1/b:2?type=1"),
    ("type", "server://a:1/b:2?type=3"),
    ("type", "server://a:1/b:2?type=9"),
    ("lbs", "client://a:1/b:2?lbs=3"),
    ("dns", "client://a:1/b:2?dns=5"),
    ("dial", "client://a:1/b:2?dial=eth0"),
    ("read", "client://a:1/b:2?read=-1s"),
    ("rate", "client://a:1/b:2?rate=10M"),
    ("slot", "client://a:1/b:2?slot=4294967296"),
    ("proxy", "client://a:1/b:2?proxy=3"),
    ("block", "client://a:1/b:2?block=10"),
    ("notcp", "client://a:1/b:2?notcp=yes"),
    ("noudp", "client://a:1/b:2?notcp=1&noudp=1"),
];

#[test]
fn bad_urls_are_refused_by_the_name_of_what_is_wrong() {
    for (parameter, url) in BAD {
        match parse(url, &no_env) {
            Ok(_) => panic!("{url} is accepted"),
            Err(error) => assert_eq!(error.parameter, parameter, "{url}: {error}"),
        }
    }
}

#[test]
fn an_error_reads_as_one_sentence_in_three_parts() {
    let table = [
        (
            "client://a:1/b:2?min=0",
            "min: `0` is not valid; a number from 1 to 65535",
        ),
        (
            "server://a:1/b:2?type=1",
            "type: 1 (QUIC) is not offered yet; 0 (TCP)",
        ),
        (
            "server://a:1/b:2?tls=2",
            "crt: missing with tls=2; the path of a PEM file",
        ),
        (
            "server://a:1/a:1",
            "target: a:1 is the tunnel address itself; another address",
        ),
        (
            "server://pa:ss?word@host:1/t:2",
            "url: a `?` in the key, or a bad address; %3F in its place",
        ),
    ];
    for (url, expected) in table {
        assert_eq!(parse(url, &no_env).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_refusal_never_shows_the_key() {
    for url in [
        "server://s3cret@a/b:2",
        "server://s3cret@a!:1/b:2",
        "server://s3cret:s3cret@a!:1/b:2",
        "server://u:s3cret%zz@a!:1/b:2",
        "server://pa:s3?cret@a:1/b:2",
        "server://pa:s3/cret@a:1/b:2",
        "server://pa:s3/cret?@a:1/b:2",
        "server://pa/x:s3?cret@a:1/b:2",
        "server://p:1/s3:x/cret@a:1/b:2",
        "server://p:1/s3:x?cret@a:1/b:2",
        "server://p@a:s3?cret@a:1/b:2",
        "server://p@a:s3/cret@a:1/b:2",
        "server://p@s3!:1?cret@a:1/b:2",
        "client://pa:s3?mode=2@a:1/b:2",
        "master://pa:s3?cret@a:1",
        "server://s3cret%zz@a:1/b:2",
        "server://s3/cret@a:1/b:2",
        "server://s3cret?@a:1/b:2",
        "server://s3cret@a:1/a:1",
        "master://s3cret@a:1",
    ] {
        let error = parse(url, &no_env).unwrap_err().to_string();
        assert!(!error.contains("s3"), "{url}: {error}");
    }
}

#[test]
fn the_key_is_the_user_name_and_what_follows_is_ignored_with_a_warning() {
    for (user, key) in [
        ("user:s3cret", Some("user")),
        ("user:", Some("user")),
        ("user:s3:cret%zz", Some("user")),
        ("a%3Ab:c", Some("a:b")),
        ("a@b:c", Some("a@b")),
        (":s3cret", None),
    ] {
        let url = format!("server://{user}@:1/:2");
        let Parsed { config, warnings } = parsed(&url);
        assert_eq!(warnings.len(), 1, "{url}");
        assert!(
            warnings[0].contains("%3A") && !warnings[0].contains("s3"),
            "{warnings:?}"
        );
        let Config::Tunnel(tunnel) = &config else {
            panic!("{url} is a master");
        };
        let given = (!tunnel.default_key).then(|| tunnel.key.reveal());
        assert_eq!(given, key, "{url}");
        assert_eq!(
            parsed(&config.spelled_out(KeyText::Revealed)).config,
            config
        );
    }
}

#[test]
fn a_url_of_the_greatest_length_is_accepted_and_one_more_is_not() {
    let start = "server://a:1/b:2?crt=";
    let longest = start.to_owned() + &"x".repeat(MAX_URL - start.len());
    assert!(parse(&longest, &no_env).is_ok());
    let error = parse(&(longest + "x"), &no_env).unwrap_err();
    assert_eq!(error.parameter, "url");
}

#[test]
fn a_bad_variable_is_refused_by_its_name() {
    let env = |name: &str| (name == "NP_REPORT_INTERVAL").then(|| "soon".to_owned());
    let error = parse("server://:1/:2", &env).unwrap_err();
    assert_eq!(error.parameter, "NP_REPORT_INTERVAL");
}

#[test]
fn every_parameter_of_a_tunnel_reaches_its_field() {
    let server = a_tunnel(
        "server://p%40ss@:1/a:2,[::3]:4?log=warn&tls=2&crt=c&key=k&proto=http,native&max=9&mode=2\
         &lbs=1&dns=1m&dial=10.0.0.1&read=2s&rate=8&slot=7&proxy=1&block=13&noudp=1",
    );
    assert_eq!(server.key.reveal(), "p@ss");
    assert!(!server.default_key);
    assert_eq!(server.tunnel.to_string(), ":1");
    let targets: Vec<_> = server
        .targets
        .iter()
        .map(|target| target.to_string())
        .collect();
    assert_eq!(targets, ["a:2", "[::3]:4"]);
    assert_eq!(server.log, LogLevel::Warn);
    assert_eq!(server.tls, DataTls::Verified);
    assert_eq!(server.crt.as_deref(), Some("c"));
    assert_eq!(server.crt_key.as_deref(), Some("k"));
    let proto = Generations::only(Generation::Http).with(Generation::Native);
    assert_eq!(server.proto, proto);
    assert_eq!(server.max, 9);
    assert_eq!(server.mode, Mode::Two);
    assert_eq!(server.lbs, Strategy::LowestLatency);
    assert_eq!(server.dns, Duration::from_secs(60));
    assert_eq!(server.dial, Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))));
    assert_eq!(server.read, Some(Duration::from_secs(2)));
    assert_eq!(server.rate, Some(1_000_000));
    assert_eq!(server.slot, Some(7));
    assert_eq!(server.proxy, Some(ProxyVersion::V1));
    assert!(server.block.socks && !server.block.http && server.block.tls);
    assert!(server.tcp && !server.udp);

    let client = a_tunnel("client://a:1/b:2?ca=r&sni=s.example&min=3&notcp=1");
    assert_eq!(client.ca.as_deref(), Some("r"));
    assert_eq!(client.sni, Sni::Name("s.example".to_owned()));
    assert_eq!(client.min, 3);
    assert!(!client.tcp && client.udp);
}

#[test]
fn without_parameters_the_defaults_hold() {
    let tunnel = a_tunnel("client://server.example:10101/:8080");
    assert_eq!(tunnel.key.reveal(), "e68be2b4");
    assert!(tunnel.default_key);
    assert_eq!(
        tunnel.spelled_out(KeyText::Revealed),
        "client://server.example:10101/:8080?log=info&tls=0&proto=auto&min=64&mode=0&lbs=0&dns=5m\
         &dial=auto&read=0&rate=0&slot=65536&proxy=0&block=0&notcp=0&noudp=0"
    );
    assert_eq!(tunnel.env, Environment::default());
    let server = a_tunnel("server://k@:1/:2");
    assert_eq!(
        server.spelled_out(KeyText::Masked),
        "server://***@:1/:2?log=info&tls=0&proto=auto&max=1024&mode=0&type=0&lbs=0&dns=5m\
         &dial=auto&read=0&rate=0&slot=65536&proxy=0&block=0&notcp=0&noudp=0"
    );
}

#[test]
fn auto_is_not_the_list_of_all() {
    let all = "native,https,http,classic";
    let url = format!("client://a:1/b:2?proto={all}");
    let (auto, listed) = (Generations::AUTO, a_tunnel(&url).proto);
    for generation in Generation::ALL {
        assert!(auto.allows(generation) && listed.allows(generation));
        assert!(!auto.names(generation) && listed.names(generation));
    }
    assert!(a_tunnel(&url).spelled_out(KeyText::Masked).contains(all));
}

#[test]
fn a_master_has_a_prefix_and_a_state_file() {
    for (url, prefix) in [
        ("master://:9090", "/api"),
        ("master://:9090/", "/api"),
        ("master://:9090///", "/api"),
        ("master://:9090/admin/", "/admin"),
        ("master://:9090/a/b/c//", "/a/b/c"),
        ("master://:9090/a%2Fb", "/a%2Fb"),
    ] {
        assert_eq!(a_master(url).prefix, prefix, "{url}");
    }
    let env = |name: &str| (name == "NP_STATE_FILE").then(|| "/from/env".to_owned());
    for (url, state) in [("master://:1", "/from/env"), ("master://:1?state=/u", "/u")] {
        let Config::Master(master) = parse(url, &env).unwrap().config else {
            panic!("not a master");
        };
        assert_eq!(master.state.as_deref(), Some(state));
    }
    assert_eq!(
        a_master("master://:1?tls=2&crt=c").spelled_out(),
        "master://:1/api?log=info&tls=2&crt=c"
    );
}

#[test]
fn a_parameter_of_another_role_is_ignored_with_a_warning() {
    for url in [
        "server://a:1/b:2?min=0",
        "server://a:1/b:2?sni=%",
        "client://a:1/b:2?max=0",
        "client://a:1/b:2?type=1",
        "master://a:1?rate=x",
        "client://a:1/b:2?state=x",
        "client://a:1/b:2?logs=x",
        "client://a:1/b:2?log=info&log=x",
    ] {
        assert_eq!(parsed(url).warnings.len(), 1, "{url}");
    }
}

#[test]
fn what_parses_can_run_in_the_mode_that_is_decided() {
    let facts = Facts {
        local: true,
        listenable: true,
        listening: false,
    };
    let single = a_tunnel("client://:1/b:2?tls=2&crt=c&key=k").decide(facts);
    assert_eq!(single.running, Running::SingleEnd);
}

fn host() -> impl Gen<Value = String> {
    prop_oneof![
        Just(String::new()),
        any::<Ipv4Addr>().prop_map(|ip| ip.to_string()),
        any::<core::net::Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
        "[a-z][a-z0-9_-]{0,8}(\\.[a-z]{1,5}){0,3}\\.?",
    ]
}

fn address() -> impl Gen<Value = String> {
    (host(), 1_u16..).prop_map(|(host, port)| format!("{host}:{port}"))
}

fn parameter() -> impl Gen<Value = String> {
    prop_oneof![
        "log=(none|Debug|INFO|trace|warn|error|event)",
        "tls=[01]",
        "(crt|key|ca|state)=[a-z/.,:+@?]{0,9}",
        "sni=(none|[a-z]{1,9})",
        "proto=(auto|native|classic,http|https,native,native)",
        "(min|max)=[1-9][0-9]{0,3}",
        "mode=[0-2]",
        "lbs=[0-2]",
        "(dns|read)=(0|[1-9][0-9]{0,3}h|[0-9]{1,5}m[0-9]{1,6}s|[0-9]{1,9}ms)",
        "dial=(auto|1\\.2\\.3\\.4|::1)",
        "(rate|slot)=[0-9]{1,6}",
        "proxy=[0-2]",
        "block=(0|[123]{1,4})",
        "noudp=[01]",
        "[a-z]{0,5}=[a-z]{0,2}",
    ]
}

fn url() -> impl Gen<Value = String> {
    let key = prop_oneof![
        Just(String::new()),
        "[ -~]{1,12}|\\PC{1,6}".prop_map(|key| percent::encode(&key, "") + "@"),
    ];
    let scheme = prop_oneof![Just("server"), Just("client"), Just("Server")];
    let targets = prop::collection::vec(address(), 1..3);
    let parameters = prop::collection::vec(parameter(), 0..8);
    (scheme, key, address(), targets, parameters).prop_map(|(scheme, key, tunnel, to, with)| {
        format!(
            "{scheme}://{key}{tunnel}/{}?{}",
            to.join(","),
            with.join("&")
        )
    })
}

proptest! {
    #[test]
    fn accepted_urls_survive_being_spelled_out(url in url()) {
        config_url(url.as_bytes());
    }

    #[test]
    fn good_urls_with_a_flaw_do_no_harm(
        which in 0..GOOD.len(),
        at in any::<prop::sample::Index>(),
        flaw in "\\PC|[%@:/?&=,\\[\\]#0-9]{1,3}",
    ) {
        let mut url = GOOD[which].to_owned();
        let places: Vec<_> = (0..=url.len()).filter(|at| url.is_char_boundary(*at)).collect();
        url.insert_str(*at.get(&places), &flaw);
        config_url(url.as_bytes());
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        config_url(&bytes);
    }
}
