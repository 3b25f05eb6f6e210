use super::*;
use crate::types::error::chain;

fn parse(text: &str) -> Result<PoolConfig, PoolConfigError> {
    text.parse()
}

/// A file with one pool that has these fields besides its name.
fn one(fields: &str) -> Result<ConfiguredPool, PoolConfigError> {
    let config = parse(&format!(r#"{{"pools":[{{"name":"fast",{fields}}}]}}"#))?;
    Ok(config.pools.into_iter().next().unwrap())
}

fn matches(glob: &str, name: &str) -> bool {
    glob.parse::<NodeGlob>().unwrap().matches(name)
}

#[test]
fn every_kind_of_place_is_read_with_what_was_chosen_for_it() {
    let image =
        one(r#""image":"/p/a.img","imageSize":"100Gi","imageFilesystem":"btrfs","overprovisionRatio":"2.5","reserve":"5%""#);
    let image = image.unwrap();
    assert_eq!(image.place, ConfiguredPlace::Image { path: "/p/a.img".into(), bytes: 100 << 30, file_system: FsType::Btrfs });
    assert_eq!(image.overprovision_ratio, Some("2.5".parse().unwrap()));
    assert_eq!(image.reserve, Some(Reserve::Share(500)));
    let plain = one(r#""image":"/p/a.img","imageSize":536870912,"overprovisionRatio":3,"reserve":"1Gi""#).unwrap();
    assert_eq!(plain.place, ConfiguredPlace::Image { path: "/p/a.img".into(), bytes: 512 << 20, file_system: FsType::Xfs });
    assert_eq!((plain.overprovision_ratio, plain.reserve), (Some("3".parse().unwrap()), Some(Reserve::Bytes(1 << 30))));
    let device = one(r#""device":"/dev/disk/by-id/x","deletedSpace":"discarded""#).unwrap();
    assert_eq!(device.place, ConfiguredPlace::Device("/dev/disk/by-id/x".into()));
    assert_eq!(device.deleted_space, Some(DeletedSpace::Discarded));
    let directory = one(r#""directory":"/var/lib//windlass/""#).unwrap();
    assert_eq!(directory.place, ConfiguredPlace::Directory("/var/lib/windlass".into()));
    assert_eq!((directory.overprovision_ratio, directory.reserve, directory.deleted_space), (None, None, None));
}

#[test]
fn what_is_wrong_is_told_by_pool_and_field() {
    for (fields, field, reason) in [
        (r#""directory":"/a","size":"1G""#, "size", "unknown field"),
        (r#""directory":"/a","image":"/b","imageSize":"1Gi""#, "image", "together with `directory`"),
        (r#""image":"/b","imageSize":"1Gi","device":"/dev/x""#, "device", "together with `image`"),
        (r#""directory":"/b","device":"/dev/x""#, "device", "together with `directory`"),
        (r#""nodes":["a"]"#, "device", "give one of"),
        (r#""directory":"a""#, "directory", "must be an absolute path"),
        (r#""directory":"/""#, "directory", "must be an absolute path"),
        (r#""directory":"/a/../b""#, "directory", "without `..`"),
        (r#""directory":7"#, "directory", "must be a path"),
        (r#""directory":"/a","nodes":["node-[12]"]"#, "nodes", "`node-[12]` is not a pattern"),
        (r#""directory":"/a","nodes":[""]"#, "nodes", "is not a pattern"),
        (r#""directory":"/a","nodes":[]"#, "nodes", "at least one"),
        (r#""directory":"/a","nodes":"a""#, "nodes", "must be a list"),
        (r#""image":"/b""#, "imageSize", "must be given"),
        (r#""image":"/b","imageSize":"10GB""#, "imageSize", "decimal unit"),
        (r#""image":"/b","imageSize":"1Mi""#, "imageSize", "at least 512.0 MiB"),
        (r#""image":"/b","imageSize":536870913"#, "imageSize", "multiple of 4096"),
        (r#""image":"/b","imageSize":-1"#, "imageSize", "is not a size"),
        (r#""image":"/b","imageSize":"1Gi","imageFilesystem":"ext4""#, "imageFilesystem", "`xfs` or `btrfs`"),
        (r#""directory":"/a","imageSize":"1Gi""#, "imageSize", "belongs to a pool in an `image`"),
        (r#""directory":"/a","overprovisionRatio":"0.5""#, "overprovisionRatio", "from 1 to 1000"),
        (r#""directory":"/a","overprovisionRatio":1e9"#, "overprovisionRatio", "from 1 to 1000"),
        (r#""directory":"/a","overprovisionRatio":true"#, "overprovisionRatio", "a text or a number"),
        (r#""directory":"/a","reserve":"60%""#, "reserve", "from 0% to 50%"),
        (r#""directory":"/a","deletedSpace":"kept""#, "deletedSpace", "belongs to a pool on a `device`"),
        (r#""device":"/a","deletedSpace":"gone""#, "deletedSpace", "`kept` or `discarded`"),
    ] {
        let text = chain(&one(fields).unwrap_err());
        assert!(text.starts_with("pool `fast` (number 1): "), "{text}");
        assert!(text.contains(field) && text.contains(reason), "{fields}: {text}");
    }
    for (file, part) in [
        (r#"{"pools":[{"directory":"/a"}]}"#, "pool number 1: name: must be given"),
        (r#"{"pools":[{"name":"a","directory":"/a"},{"name":"B","directory":"/b"}]}"#, "pool `B` (number 2): name: "),
        (r#"{"pools":[7]}"#, "pool number 1: "),
        (r#"{"pools":[],"pool":[]}"#, "unknown field `pool`"),
        (r#"{"pools":"#, "it is not a list of pools"),
        ("[]", "it is not a list of pools"),
        ("{}", "missing field `pools`"),
    ] {
        let text = chain(&parse(file).unwrap_err());
        assert!(text.contains(part), "{file}: {text}");
    }
}

#[test]
fn a_node_has_the_pools_that_name_it_in_their_order() {
    let config = parse(
        r#"{"pools":[
            {"name":"all","directory":"/a"},
            {"name":"some","nodes":["node-1*","edge"],"directory":"/b"},
            {"name":"other","nodes":["node-2"],"directory":"/b"}
        ]}"#,
    )
    .unwrap();
    let names =
        |node: &str| -> Vec<String> { config.of_node(node).unwrap().into_iter().map(|pool| pool.name.to_string()).collect() };
    assert_eq!(names("node-1"), ["all", "some"]);
    assert_eq!(names("node-2"), ["all", "other"]);
    assert_eq!(names("edge"), ["all", "some"]);
    assert_eq!(names("elsewhere"), ["all"]);
    assert!(parse(r#"{"pools":[]}"#).unwrap().of_node("x").unwrap().is_empty());
}

#[test]
fn two_pools_of_a_node_at_one_place_are_refused_by_name() {
    let text = r#"{"pools":[{"name":"a","directory":"/x/y"},{"name":"b","nodes":["n*"],"device":"/x//y"}]}"#;
    let error = parse(text).unwrap().of_node("n1").unwrap_err().to_string();
    assert_eq!(error, "pools `a` and `b` of node `n1` both lie at /x/y");
    assert_eq!(parse(text).unwrap().of_node("m1").unwrap().len(), 1);
}

#[test]
fn globs_match_whole_names() {
    for (glob, name) in [
        ("*", "a"),
        ("a", "a"),
        ("node-*", "node-"),
        ("node-*", "node-17.example"),
        ("n?de", "node"),
        ("*a*b", "xaxbab"),
        ("**", "x"),
    ] {
        assert!(matches(glob, name), "{glob} {name}");
    }
    for (glob, name) in [("a", "b"), ("a", "ab"), ("node-*", "xnode-1"), ("n?de", "nde"), ("*a*b", "xaxbax"), ("?", "")] {
        assert!(!matches(glob, name), "{glob} {name}");
    }
    // No pattern makes it slow.
    assert!(!matches(&"*a".repeat(60), &"a".repeat(59)));
}

#[test]
fn a_file_that_is_not_there_or_wrong_says_so_by_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pools.json");
    assert_eq!(PoolConfig::read(&path).unwrap_err().exit(), Exit::NotFound);
    std::fs::write(&path, "{").unwrap();
    let error = PoolConfig::read(&path).unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    assert!(chain(&error).starts_with(&format!("--pool-config {}: it is not a list of pools", path.display())), "{error}");
    std::fs::write(&path, " ".repeat((1 << 20) + 1)).unwrap();
    assert!(chain(&PoolConfig::read(&path).unwrap_err()).contains("more than 1048576 bytes"));
    std::fs::write(&path, r#"{"pools":[]}"#).unwrap();
    assert!(PoolConfig::read(&path).is_ok());
}
