//! Telling of paths that nobody built here.

use fleet_nix::{
    ContentAddress, ContentAddressMethod, NarHash, PathInfo, References, SecretKey, StoreDir, fingerprint,
    fixed_path,
};
use fleet_wire::v1;
use fleet_wire::v1::PathStanding;
use tonic::Code;

use crate::world::{EVIL, HONEST, Made, World, parsed, refused, right, step, upstream};

const FOREIGN: &str = "11111111111111111111111111111111-foreign";
const OTHER: &str = "22222222222222222222222222222222-other";

fn signed(key: &SecretKey, said: &v1::PathInfo, of: &v1::PathInfo) -> v1::PathInfo {
    let info = PathInfo {
        path: parsed(&of.path),
        deriver: None,
        nar_hash: NarHash(of.nar_hash.as_ref().try_into().expect("32 bytes")),
        references: of.references.iter().map(|path| parsed(path)).collect(),
        registration_time: 0,
        nar_size: of.nar_size,
        ultimate: false,
        signatures: Vec::new(),
        content_address: None,
    };
    let signature = key.sign(fingerprint(&StoreDir::default(), &info).as_bytes());
    v1::PathInfo { signatures: vec![signature.to_string()], ..said.clone() }
}

/// A path that follows from these bytes, and claims to have others.
fn by_content(method: ContentAddressMethod, of: &str, bytes: &str) -> v1::PathInfo {
    let named = Made::holding(FOREIGN, of, &[]).info();
    let hash = NarHash(named.nar_hash.as_ref().try_into().expect("32 bytes")).to_hash();
    let address = ContentAddress { method, hash };
    let path = fixed_path(&StoreDir::default(), "source", &address, &References::default());
    let made = Made::holding(path.expect("a path").as_str(), bytes, &[]);
    made.with(|info| info.content_address = address.to_string()).info()
}

#[tokio::test]
async fn what_nobody_vouches_for() {
    let library = step("library", HONEST, &[], None);
    let app = step("app", EVIL, &[&library], None);
    let slow = step("slow", HONEST, &[&library], None);
    let top = step("top", HONEST, &[&app, &slow], None);
    let mut world = World::new(&[&library, &app, &slow, &top]).await;
    world.build(&[&library]).await;
    let own = right(&world.evil.lease(&app).await);
    let others = right(&world.honest.lease(&slow).await);
    let (foreign, other) = (Made::new(FOREIGN, &[]).info(), Made::holding(OTHER, "o", &[]).info());
    let changed = v1::PathInfo { nar_hash: vec![5; 32].into(), ..foreign.clone() };
    let known = Made::holding(&library.output, "evil", &[]).info();
    let unknown = SecretKey::from_seed("nobody-1", &[8; 32]).expect("a key");
    let namesake = SecretKey::from_seed("upstream-1", &[8; 32]).expect("a key");
    let wrong = v1::PathInfo {
        content_address: by_content(ContentAddressMethod::NixArchive, "a", "a").content_address,
        ..foreign.clone()
    };
    let rows = [
        ("what it alone has", foreign.clone()),
        ("a key that nobody believes", signed(&unknown, &foreign, &foreign)),
        ("a key of the believed one's name", signed(&namesake, &foreign, &foreign)),
        ("a signature of another path", signed(&upstream(), &foreign, &other)),
        ("a signature of other bytes", signed(&upstream(), &changed, &foreign)),
        ("a signature without its references", {
            let more = v1::PathInfo { references: vec![library.output.clone()], ..foreign.clone() };
            signed(&upstream(), &more, &foreign)
        }),
        ("another content for what is known", known.clone()),
        ("another content, with a namesake's signature", signed(&namesake, &known, &known)),
        ("a content address that makes another path", wrong),
        (
            "bytes that its content address does not name",
            by_content(ContentAddressMethod::NixArchive, "a", "evil"),
        ),
    ];
    for (attack, info) in rows {
        let path = info.path.clone();
        let before = world.standing(&path).await;
        let told = world.evil.vouch(own, info).await.expect("an answer");
        assert_eq!(told, PathStanding::Unknown, "{attack}");
        assert_eq!(world.standing(&path).await, before, "{attack}");
        world.serves_none(&[&path]).await;
    }
    let bad = v1::PathInfo { signatures: vec!["upstream-1:no".to_owned()], ..foreign.clone() };
    refused("no signature", world.evil.vouch(own, bad).await, Code::InvalidArgument, "bad signature");
    let many = v1::PathInfo { signatures: vec!["k:AA==".to_owned(); 65], ..foreign.clone() };
    refused(
        "signatures without end",
        world.evil.vouch(own, many).await,
        Code::InvalidArgument,
        "more signatures",
    );
    let genuine = signed(&upstream(), &foreign, &foreign);
    let denied = world.evil.vouch(others, genuine.clone()).await;
    refused("by another's lease", denied, Code::PermissionDenied, "another worker has this lease");
    assert_eq!(world.standing(FOREIGN).await, PathStanding::Unknown);
    assert_eq!(
        world.evil.vouch(own, genuine).await.expect("an answer"),
        PathStanding::Upstream,
        "what is true is heard"
    );
    world.serves_none(&[FOREIGN]).await;
}
