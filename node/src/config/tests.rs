use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn load_text(text: &str) -> anyhow::Result<Config> {
    load(Some(file(text).path()), &BTreeMap::new(), &[]).map(|(config, _)| config)
}

fn error_of(text: &str) -> String {
    format!("{:#}", load_text(text).unwrap_err())
}

fn documented() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.toml");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_documented_file_says_what_the_defaults_are() {
    let settings: Settings = config::Config::builder()
        .add_source(config::File::from_str(&documented(), config::FileFormat::Toml))
        .build()
        .unwrap()
        .try_deserialize()
        .unwrap();
    assert_eq!(settings, Settings::default());
    assert_eq!(load_text(&documented()).unwrap(), load_text("").unwrap());
}

#[test]
fn the_documented_file_names_every_setting() {
    let mut section = String::new();
    let mut named = Vec::new();
    for line in documented().lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((name, _)) = line.trim_start_matches("# ").split_once(" = ") {
            named.push(format!("{section}{name}"));
        }
    }
    let mut keys = Settings::keys();
    named.sort();
    keys.sort();
    assert_eq!(named, keys);
}

#[test]
fn what_is_documented_as_an_example_can_be_set() {
    let text: String = documented()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')) => {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let config = load_text(&text).unwrap();
    assert_eq!(config.name, "east-1");
    assert_eq!(config.zone, "rack-7");
    assert_eq!(config.capacity_bytes, Some(4 << 40));
    assert_eq!(config.transcoder_slots, 4);
}

#[test]
fn unknown_settings_are_refused_by_name() {
    let error = error_of("[http]\nlisten_on = \"127.0.0.1:1\"\n");
    assert!(error.contains("listen_on"), "{error}");
    let flags = [("http.listen_on".to_owned(), "x".to_owned())];
    let error = load(None, &BTreeMap::new(), &flags).unwrap_err().to_string();
    assert!(error.contains("http.listen_on"), "{error}");
}

#[test]
fn variables_stand_above_the_file_and_flags_above_variables() {
    let file = file("name = \"file\"\nzone = \"file\"\n[http]\nlisten = \"127.0.0.1:1\"\n");
    let variables = BTreeMap::from([
        ("REELRAFT_ZONE".to_owned(), "variable".to_owned()),
        ("REELRAFT_HTTP_LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
        ("REELRAFT_HTTP_KEEP_SOURCE".to_owned(), "true".to_owned()),
        ("REELRAFT_ROLES".to_owned(), "gateway, store".to_owned()),
        ("REELRAFT_RAFT_HEARTBEAT".to_owned(), "60ms".to_owned()),
        ("REELRAFT_HTTP_UPLOAD_MAX".to_owned(), "5 MiB".to_owned()),
        ("REELRAFT_TRANSCODER_SLOTS".to_owned(), "3".to_owned()),
        ("REELRAFT_NAME_OF_NODE".to_owned(), "typo".to_owned()),
        ("REELRAFT_URL".to_owned(), "for the command line".to_owned()),
    ]);
    let flags = [("http.listen".to_owned(), "127.0.0.1:3".to_owned())];
    let (config, unknown) = load(Some(file.path()), &variables, &flags).unwrap();
    assert_eq!(config.name, "file");
    assert_eq!(config.zone, "variable");
    assert_eq!(config.http.listen.port(), 3);
    assert!(config.http.keep_source);
    assert_eq!(config.roles, [Role::Store, Role::Gateway]);
    assert_eq!(config.raft.heartbeat, Duration::from_millis(60));
    assert_eq!(config.http.upload_bytes_max, 5 << 20);
    assert_eq!(config.transcoder_slots, 3);
    assert_eq!(unknown, ["REELRAFT_NAME_OF_NODE"]);
}

#[test]
fn what_cannot_work_is_refused_with_its_name() {
    for (text, words) in [
        ("roles = []", "roles"),
        ("roles = [\"king\"]", "king"),
        ("name = \" \"", "name"),
        ("[rpc]\ncertificate_life = \"9s\"", "rpc.certificate_life"),
        ("[rpc]\nadvertise = \"somewhere\"", "host:port"),
        ("[http]\nurl = \"example.org\"", "http.url"),
        ("[http]\nupload_max = \"0\"", "http.upload_max"),
        ("[raft]\nheartbeat = \"500ms\"", "raft.election_min"),
        ("[raft]\nelection_max = \"300ms\"", "raft.election_max"),
        ("[raft]\nheartbeat = \"soon\"", "soon"),
        ("[raft]\nkeep_entries = 10", "raft.keep_entries"),
        ("[failure]\ndown_after = \"2s\"", "failure"),
        ("[failure]\nupload_lost_after = \"3s\"", "failure.upload_lost_after"),
        ("[transcoder]\nslots = 0", "transcoder.slots"),
        ("[log]\nfilter = \"node=loudly\"", "log.filter"),
        ("[content]\ncache = \"many\"", "many"),
        ("[content]\nrepair_per_second = \"5 GiB\"", "content.repair_per_second"),
        ("[content]\nforget_after = \"59m\"", "content.forget_after"),
        ("this is no toml", "read"),
    ] {
        let error = error_of(text);
        assert!(error.contains(words), "{text:?}: {error}");
    }
}

#[test]
fn a_zone_is_the_machine_unless_it_is_named() {
    assert_eq!(load_text("name = \"a\"").unwrap().zone, "a");
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let error =
        format!("{:#}", load(Some(Path::new("/no/such.toml")), &BTreeMap::new(), &[]).unwrap_err());
    assert!(error.contains("/no/such.toml"), "{error}");
}
