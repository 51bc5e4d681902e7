//! The configuration follows its files: `server.watch`, and the files that references name.
//!
//! The gateway looks every two seconds; the tests make further looks of their own and wait for none.

use std::fs;

use super::support::{Gateway, Upstream, status};

const ROUTE: &str = "[[routes]]\nname = \"app\"\nauth = \"none\"\nupstream = [\"http://${file:upstream}\"]\n";

struct World {
    gateway: Gateway,
    /// The text of the configuration at the start.
    text: String,
}

impl World {
    /// A gateway whose upstream is named in a file; `server`: further keys.
    async fn start(server: &str, upstream: &Upstream) -> World {
        let gateway =
            Gateway::start_beside(&[("upstream", &format!("{}\n", upstream.address))], server, ROUTE).await;
        let text = fs::read_to_string(gateway.folder.path().join("config.toml")).unwrap();
        World { gateway, text }
    }

    /// Writes a file, and looks twice.
    async fn write(&self, name: &str, text: &str) {
        fs::write(self.gateway.folder.path().join(name), text).unwrap();
        for _ in 0..2 {
            self.gateway.running.look_at_files().await;
        }
    }

    fn hash(&self) -> String {
        self.gateway.running.control.configuration()
    }

    async fn status(&self, target: &str) -> u16 {
        status(&self.gateway.get(target, "").await)
    }
}

#[tokio::test]
async fn a_changed_configuration_is_taken_up_and_a_broken_one_is_not() {
    let upstream = Upstream::start().await;
    let world = World::start("watch = true", &upstream).await;
    let first = world.hash();
    assert_eq!(world.status("/").await, 200);

    world.write("config.toml", &world.text.replace("auth = \"none\"", "auth = \"nobody\"")).await;
    assert_eq!((world.hash(), world.status("/").await), (first.clone(), 200));

    world.write("config.toml", &world.text.replace("auth = \"none\"", "auth = \"required\"")).await;
    let second = world.hash();
    assert_ne!(second, first);
    assert_eq!(world.status("/").await, 401);
    let (_, answer) = world.gateway.admin("POST", "/admin/v1/reload", &serde_json::json!({})).await;
    assert_eq!(answer["hash"], *second);

    // It is itself followed: from here on the file is left alone.
    let without = world.text.replace("watch = true", "watch = false");
    world.write("config.toml", &without).await;
    let third = world.hash();
    assert_eq!(world.status("/").await, 200);
    world.write("config.toml", &world.text).await;
    assert_eq!(world.hash(), third);
    assert_ne!(third, first);
}

#[tokio::test]
async fn a_file_that_a_reference_names_is_read_again_when_it_changes() {
    let (before, after) = (Upstream::start().await, Upstream::start().await);
    let world = World::start("", &before).await;
    let hash = world.hash();
    assert_eq!(world.status("/").await, 200);
    // Empty, as a file is between being truncated and being written.
    world.write("upstream", "").await;
    assert_eq!(world.status("/").await, 200);
    assert_eq!((before.requests().len(), after.requests().len()), (2, 0));
    world.write("upstream", &after.address.to_string()).await;
    assert_eq!(world.status("/").await, 200);
    assert_eq!((before.requests().len(), after.requests().len()), (2, 1));
    assert_eq!(world.hash(), hash, "no value is in the hash");
}
