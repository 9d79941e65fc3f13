//! One file of manifests, and what every pod of a relay has to be.

use std::collections::BTreeSet;

use yaml_rust2::{Yaml, YamlLoader};

/// A Deployment with the ConfigMap of its relay.
pub(crate) struct Manifest {
    documents: Vec<Yaml>,
}

/// A text in a mapping.
pub(crate) fn text_at<'a>(yaml: &'a Yaml, name: &str) -> &'a str {
    yaml[name].as_str().unwrap_or_else(|| panic!("no text {name:?} in {yaml:?}"))
}

fn list(yaml: &Yaml) -> &[Yaml] {
    yaml.as_vec().map_or(&[], Vec::as_slice)
}

impl Manifest {
    pub(crate) fn read(text: &str) -> Self {
        let documents = YamlLoader::load_from_str(text).unwrap();
        for document in &documents {
            for name in ["apiVersion", "kind"] {
                text_at(document, name);
            }
            text_at(&document["metadata"], "name");
        }
        Self { documents }
    }

    fn kind(&self, kind: &str) -> &Yaml {
        let found = self.documents.iter().find(|document| text_at(document, "kind") == kind);
        found.unwrap_or_else(|| panic!("there is no {kind}"))
    }

    pub(crate) fn deployment(&self) -> &Yaml {
        self.kind("Deployment")
    }

    pub(crate) fn pod(&self) -> &Yaml {
        &self.deployment()["spec"]["template"]["spec"]
    }

    fn containers(&self) -> Vec<&Yaml> {
        ["initContainers", "containers"].iter().flat_map(|name| list(&self.pod()[*name])).collect()
    }

    /// The container that runs the relay.
    pub(crate) fn relay(&self) -> &Yaml {
        let all = self.containers();
        all.into_iter().find(|container| text_at(container, "name") == "barid-relay").expect("a relay")
    }

    /// The text of `relay.toml`.
    pub(crate) fn config(&self) -> String {
        text_at(&self.kind("ConfigMap")["data"], "relay.toml").to_owned()
    }

    fn settings(&self) -> toml::Table {
        self.config().parse().unwrap()
    }

    pub(crate) fn drain_ms(&self) -> i64 {
        self.settings()["relay"]["drain_ms"].as_integer().unwrap()
    }

    /// The names of the secret's files that the configuration reads.
    pub(crate) fn secrets(&self) -> BTreeSet<String> {
        let config = self.config();
        let files =
            config.lines().filter_map(|line| line.split('"').nth(1)?.strip_prefix("/run/secrets/barid/"));
        files.map(str::to_owned).collect()
    }

    /// The paths that the relay is asked for.
    pub(crate) fn probes(&self) -> Vec<String> {
        let relay = self.relay();
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|name| &relay[name]["httpGet"]);
        probes.iter().filter(|get| !get.is_badvalue()).map(|get| text_at(get, "path").to_owned()).collect()
    }

    /// The profile `restricted` of the Pod Security Standards, and a tree that cannot be written.
    pub(crate) fn assert_restricted(&self) {
        let pod = &self.pod()["securityContext"];
        assert_eq!(pod["runAsNonRoot"].as_bool(), Some(true));
        assert!(pod["runAsUser"].as_i64().is_some_and(|user| user > 0), "the image's user has no name");
        assert_eq!(text_at(&pod["seccompProfile"], "type"), "RuntimeDefault");
        for container in self.containers() {
            let (name, security) = (text_at(container, "name"), &container["securityContext"]);
            assert_eq!(security["allowPrivilegeEscalation"].as_bool(), Some(false), "{name}");
            assert_eq!(security["readOnlyRootFilesystem"].as_bool(), Some(true), "{name}");
            assert_eq!(list(&security["capabilities"]["drop"])[0].as_str(), Some("ALL"), "{name}");
            assert!(
                security["privileged"].is_badvalue() && security["capabilities"]["add"].is_badvalue(),
                "{name}"
            );
            assert!(!container["resources"]["limits"]["memory"].is_badvalue(), "{name} has no limit");
        }
        for name in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(self.pod()[name].is_badvalue(), "{name}");
        }
        for volume in list(&self.pod()["volumes"]) {
            assert!(volume["hostPath"].is_badvalue(), "{volume:?}");
        }
    }

    /// Labels and their selectors, mounts and volumes, ports and probes, the configuration and what is mounted.
    pub(crate) fn assert_names_meet(&self) {
        let labels = &self.deployment()["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&self.deployment()["spec"]["selector"]["matchLabels"], labels);
        for document in &self.documents {
            if text_at(document, "kind") == "PodDisruptionBudget" {
                assert_eq!(&document["spec"]["selector"]["matchLabels"], labels);
            }
        }
        let volumes = list(&self.pod()["volumes"]);
        for container in self.containers() {
            for mount in list(&container["volumeMounts"]) {
                let name = text_at(mount, "name");
                assert!(volumes.iter().any(|volume| text_at(volume, "name") == name), "no volume {name}");
            }
        }
        let config = volumes.iter().find(|volume| text_at(volume, "name") == "config").unwrap();
        let named = text_at(&self.kind("ConfigMap")["metadata"], "name");
        assert_eq!(text_at(&config["configMap"], "name"), named);
        let secrets = volumes.iter().find(|volume| text_at(volume, "name") == "secrets").unwrap();
        assert_eq!(secrets["secret"]["defaultMode"].as_i64(), Some(0o440), "secrets are not for everybody");
        let mounts: Vec<_> =
            list(&self.relay()["volumeMounts"]).iter().map(|mount| text_at(mount, "mountPath")).collect();
        assert!(mounts.contains(&"/etc/barid") && mounts.contains(&"/run/secrets/barid"), "{mounts:?}");
        let doorbell = self.config().contains("unix:/run/barid/");
        assert_eq!(doorbell, mounts.contains(&"/run/barid"), "the doorbell has a folder that can be written");
        let listen: std::net::SocketAddr =
            self.settings()["admin"]["listen"].as_str().unwrap().parse().unwrap();
        assert!(listen.ip().is_unspecified(), "the kubelet asks at the address of the pod");
        let port = &list(&self.relay()["ports"])[0];
        assert_eq!(port["containerPort"].as_i64(), Some(listen.port().into()));
        for probe in ["livenessProbe", "readinessProbe"] {
            let get = &self.relay()[probe]["httpGet"];
            assert!(get.is_badvalue() || text_at(get, "port") == text_at(port, "name"), "{probe}");
        }
    }
}
