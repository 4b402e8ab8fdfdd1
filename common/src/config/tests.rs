use super::*;

fn parse(text: &str) -> Result<ClusterFile, ConfigError> {
    ClusterFile::parse(Path::new("config.json"), text)
}

fn message(text: &str) -> String {
    parse(text).expect_err("refused").to_string()
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

const BY_MYPID: &str = r#"{
    "object":
    {
        "total": 2,
        "Servers":
        [
            {
                "mypid": 1,
                "url": "127.0.0.1:6001"
            },
            {
                "mypid": 2,
                "url": "127.0.0.1:6002"
            }
        ]
    }
}
"#;

const BY_KEY: &str = r#"{"Ser":{"1":"127.0.0.1:6001",
"2":"127.0.0.1:6002",
"10":"127.0.0.1:6010"},
"Send":9999,"Receive":9009,
"Peer":[1,2,10],
"Electiontimeout":[400000000,
700000000,1000000000],
"Heartbeatinterval":90000000}"#;

#[test]
fn servers_by_mypid() {
    let file = parse(BY_MYPID).expect("valid");
    assert_eq!(
        file.servers,
        BTreeMap::from([(1, address("127.0.0.1:6001")), (2, address("127.0.0.1:6002"))])
    );
    assert_eq!((file.heartbeat, file.election_timeouts.len()), (None, 0));
    let server = file.server(2).expect("known");
    assert_eq!(server.client, address("127.0.0.1:7002"));
    assert_eq!(server.election_timeout, None);
}

#[test]
fn servers_by_key_with_times() {
    let file = parse(BY_KEY).expect("valid");
    assert_eq!(file.heartbeat, Some(Duration::from_millis(90)));
    let server = file.server(10).expect("known");
    assert_eq!(
        server,
        ClusterServer {
            pid: 10,
            address: address("127.0.0.1:6010"),
            client: address("127.0.0.1:7010"),
            election_timeout: Some(Duration::from_secs(1)),
        }
    );
    assert_eq!(file.server(1).expect("known").election_timeout, Some(Duration::from_millis(400)));
}

#[test]
fn a_client_address_may_be_given() {
    let text = r#"{"object":{"total":1,"Servers":[{"mypid":7,"url":"[::1]:65000","client":"0.0.0.0:11211"}]}}"#;
    let server = parse(text).expect("valid").server(7).expect("known");
    assert_eq!(server.client, address("0.0.0.0:11211"));
    let text = text.replace(r#","client":"0.0.0.0:11211""#, "");
    assert_eq!(
        message(&text),
        "config.json:1: object.Servers[0].url: leaves no room for the client port, 1000 above \
         port 65000: use a port of at most 64535, or give the server a `client` address"
    );
}

#[test]
fn an_unknown_pid_lists_the_known_ones() {
    let error = parse(BY_KEY).expect("valid").server(3).expect_err("unknown").to_string();
    assert_eq!(error, "config.json: there is no server 3; the pids are 1, 2, 10");
}

/// A change to [`BY_MYPID`] and what is said about it.
#[test]
fn errors_by_mypid_name_line_and_field() {
    let table = [
        (
            r#""127.0.0.1:6002""#,
            r#""127.0.0.1:100002""#,
            "13: object.Servers[1].url: port 100002 is above 65535",
        ),
        (r#""total": 2"#, r#""total": 3"#, "4: object.total: says 3, but 2 servers are listed"),
        (r#""total": 2,"#, "", "3: object.total: is missing"),
        (
            r#""total": 2"#,
            r#""total": "2""#,
            r#"4: object.total: expected a whole number from 0 on, found "2""#,
        ),
        (
            r#""mypid": 2"#,
            r#""mypid": 1"#,
            "12: object.Servers[1].mypid: pid 1 is given to another server already",
        ),
        (
            r#""mypid": 1"#,
            r#""mypid": 0"#,
            "8: object.Servers[0].mypid: pid 0 is not allowed; pids start at 1",
        ),
        (
            r#""mypid": 1"#,
            r#""mypid": -1"#,
            "8: object.Servers[0].mypid: expected a whole number from 0 on, found -1",
        ),
        (
            ":6002",
            ":6001",
            "13: object.Servers[1].url: 127.0.0.1:6001 is the url of server 1 already",
        ),
        (
            r#""url": "127.0.0.1:6002""#,
            r#""url": "127.0.0.1:6002", "client": "127.0.0.1:7001""#,
            "13: object.Servers[1].client: the client address 127.0.0.1:7001 is that of server 1 already",
        ),
        (
            "127.0.0.1:6001",
            "localhost:6001",
            r#"9: object.Servers[0].url: expected an address as "ip:port", found "localhost:6001""#,
        ),
        ("127.0.0.1:6001", "127.0.0.1:0", "9: object.Servers[0].url: port 0 is no address"),
        ("127.0.0.1:6001", "127.0.0.1:", r#"9: object.Servers[0].url: expected an address"#),
        (r#""url": "127.0.0.1:6002""#, r#""x": 1"#, "11: object.Servers[1].url: is missing"),
        (
            r#""mypid": 2,"#,
            r#""mypid": 2, "mypid": 3,"#,
            "12: object.Servers[1].mypid: is there twice",
        ),
        (r#""Servers""#, r#""servers""#, "3: object.Servers: is missing"),
        (r#""object""#, r#""cluster""#, "1: the file: neither of the known shapes"),
    ];
    for (from, to, expected) in table {
        let expected = format!("config.json:{expected}");
        let text = message(&BY_MYPID.replacen(from, to, 1));
        assert!(text.starts_with(&expected), "{from} -> {to}: {text}");
    }
}

#[test]
fn errors_by_key_name_line_and_field() {
    let table = [
        ("127.0.0.1:6002", "127.0.0.1:100002", "2: Ser.2: port 100002 is above 65535"),
        (r#""2":"#, r#""two":"#, "2: Ser.two: the key `two` is no pid"),
        (r#""2":"#, r#""1":"#, "2: Ser.1: is there twice"),
        (r#""2":"#, r#""01":"#, "2: Ser.01: pid 1 is given to another server already"),
        (r#""2":"#, r#""0":"#, "2: Ser.0: pid 0 is not allowed"),
        (":6010", ":6001", "3: Ser.10: 127.0.0.1:6001 is the url of server 1 already"),
        (
            "700000000,",
            "",
            "6: Electiontimeout: has 2 entries for 3 servers; expected one for each",
        ),
        ("700000000", "0", "7: Electiontimeout[1]: must be above 0 (nanoseconds)"),
        ("90000000", "\"90ms\"", "8: Heartbeatinterval: expected a whole number"),
        (r#""Send""#, r#""object""#, "1: Ser: the file has `object`, too"),
    ];
    for (from, to, expected) in table {
        let text = message(&BY_KEY.replacen(from, to, 1));
        let expected = format!("config.json:{expected}");
        assert!(text.starts_with(&expected), "{from} -> {to}: {text}");
    }
}

#[test]
fn empty_lists_and_other_json() {
    assert!(
        message(r#"{"object":{"total":0,"Servers":[]}}"#)
            .starts_with("config.json:1: object.Servers: is empty")
    );
    assert!(message("{\n\"Ser\":\n{}}").starts_with("config.json:3: Ser: is empty"));
    assert!(message("[1]").starts_with("config.json:1: the file: expected an object, found [1]"));
}

#[test]
fn syntax_errors_say_where() {
    assert_eq!(
        message("{\"object\":\n  {\"total\" 2}}"),
        "config.json:2:12: not valid JSON: expected `:`"
    );
    assert_eq!(message(""), "config.json:1:0: not valid JSON: EOF while parsing a value");
    assert!(message("{} x").starts_with("config.json:1:4: not valid JSON: trailing characters"));
}

#[test]
fn files_are_loaded_and_missing_ones_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.json");
    let error = ClusterFile::load(&path).expect_err("missing").to_string();
    assert!(error.starts_with(&format!("{}: cannot read the configuration", path.display())));
    std::fs::write(&path, BY_MYPID).expect("written");
    let file = ClusterFile::load(&path).expect("valid");
    assert_eq!((file.servers.len(), file.path), (2, path.clone()));
    std::fs::write(&path, b"{\"\xff\"}").expect("written");
    let error = ClusterFile::load(&path).expect_err("not text").to_string();
    assert!(error.contains("invalid utf-8"), "{error}");
}
