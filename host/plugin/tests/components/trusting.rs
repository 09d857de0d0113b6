//! What a policy refuses is refused before anything of the component is looked into.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ovhost_plugin::{PluginError, PluginSpec, Trust, TrustError, TrustPolicy};

use crate::{assert_says, first_party, guest, host, spec, texts};

fn policy(level: Trust) -> Arc<TrustPolicy> {
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3".to_owned();
    Arc::new(TrustPolicy::new(level, &[key], Path::new(".")).unwrap())
}

#[test]
fn trust_comes_before_everything_else() {
    // Not even a component: a policy that looked later would say so.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.wasm");
    std::fs::write(&path, "hello").unwrap();
    for level in [Trust::Pinned, Trust::Signed] {
        let spec = PluginSpec { trust: policy(level), ..PluginSpec::new(&path) };
        for error in [host().load(&spec).unwrap_err(), host().inspect_spec(&spec).unwrap_err()] {
            assert!(matches!(error, PluginError::Trust(_)), "{error}");
        }
    }
}

#[test]
fn pins_are_recorded() {
    let path = first_party("filters/image_geometry");
    let hash = host().inspect(&path, None).unwrap().sha256;
    let open = PluginSpec { trust: policy(Trust::Pinned), ..PluginSpec::new(&path) };
    assert_says(&host().load(&open).unwrap_err(), &["image_geometry", &hash, "ovhost plugin lock"]);
    let pinned = PluginSpec { sha256: Some(hash), ..open };
    let plugin = host().load(&pinned).unwrap();
    assert!(plugin.info().trust.pinned);
    assert_eq!(plugin.info().trust.signature, None);
    assert!(!host().load(&PluginSpec::new(&path)).unwrap().info().trust.pinned);
}

#[test]
fn assets_are_pinned_too() {
    let dir = tempfile::tempdir().unwrap();
    let counting = host().load(&spec(guest("counting"), "counting")).unwrap();
    let mut filter = counting.filter().unwrap();
    filter.process(&crate::ctx(), &texts(&["a", "a", "b"])).unwrap();
    let asset = dir.path().join("counts");
    std::fs::write(&asset, filter.save().unwrap()).unwrap();

    let mut frequent = PluginSpec {
        sha256: Some(counting.info().sha256.clone()),
        assets: BTreeMap::from([("counts".to_owned(), asset.clone())]),
        trust: policy(Trust::Pinned),
        ..spec(guest("counting"), "frequent")
    };
    let error = host().load(&frequent).unwrap_err();
    let PluginError::Trust(refused) = &error else { panic!("{error}") };
    let TrustError::AssetNotPinned { sha256, .. } = &**refused else { panic!("{error}") };
    frequent.asset_pins.insert("counts".into(), sha256.clone());
    assert_eq!(host().load(&frequent).unwrap().info().assets[0].sha256, *sha256);

    std::fs::write(&asset, "changed").unwrap();
    frequent.trust = policy(Trust::Sandbox);
    let error = host().load(&frequent).unwrap_err();
    assert_says(&error, &["asset counts of plugin frequent", sha256, "ovhost plugin lock"]);
}
