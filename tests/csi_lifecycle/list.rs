//! ListVolumes and ListSnapshots, page by page.

use csi_proto::csi::v1::*;
use windlass::types::VolumeHandle;

use crate::WRITER;
use crate::csi_harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_stable_while_volumes_come_and_go() {
    let node = Node::start().await;
    let mut ids = Vec::new();
    for number in 0..7 {
        ids.push(node.volume(&format!("v{number}"), mount("ext4", WRITER)).await);
        node.snapshot(&format!("s{number}"), &ids[number]).await.unwrap();
    }
    ids.sort_by_key(|id| id.parse::<VolumeHandle>().unwrap());
    let mut client = node.controller.clone();
    let mut seen: Vec<String> = Vec::new();
    let mut token = String::new();
    loop {
        let page = client.list_volumes(ListVolumesRequest { max_entries: 2, starting_token: token }).await.unwrap().into_inner();
        assert!(page.entries.len() <= 2);
        seen.extend(page.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id));
        token = page.next_token;
        if token.is_empty() {
            break;
        }
        // The entry that the token names goes away.
        node.delete(seen.last().unwrap()).await.unwrap();
    }
    assert_eq!(seen, ids);
    let (mut count, mut token) = (0, String::new());
    loop {
        let request = ListSnapshotsRequest { max_entries: 3, starting_token: token, ..Default::default() };
        let page = client.list_snapshots(request).await.unwrap().into_inner();
        count += page.entries.len();
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(count, 7);
}
