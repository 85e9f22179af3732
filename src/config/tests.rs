//! The configuration from outside: files in a directory, variables, and what comes of them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::settings::*;
use super::*;
use crate::chunk::Packing;
use crate::http::Route;
use crate::secret::Place;

/// A directory with configuration files, and the variables beside it.
struct Written {
    directory: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

const ACME: &str = r#"
org = "acme-corp"

[source]
token = { file = "../token" }

[file]
path = "../archive"
"#;

const SENTINEL: &str = r#"
org = "acme-corp"
source.token = { file = "../token" }

[sentinel]
endpoint = "https://acme-x1y2.westeurope-1.ingest.monitor.azure.com"
rule_id = "dcr-00000000000000000000000000000000"
identity = { kind = "client_secret", tenant_id = "t", client_id = "c", secret = { file = "../token" } }
"#;

impl Written {
    fn new(forwarder: &str) -> Written {
        let written = Written { directory: tempfile::tempdir().unwrap(), variables: Vec::new() };
        written.file("forwarder.toml", forwarder).secret("token", "test-token\n", 0o600)
    }

    fn file(self, name: &str, text: &str) -> Written {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn org(self, id: &str, text: &str) -> Written {
        self.file(&format!("orgs/{id}.toml"), text)
    }

    fn secret(self, name: &str, text: &str, mode: u32) -> Written {
        use std::os::unix::fs::PermissionsExt;
        let this = self.file(name, text);
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(this.directory.path().join(name), permissions).unwrap();
        this
    }

    fn variable(mut self, name: &str, value: &str) -> Written {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings { directory: self.directory.path().to_owned(), variables: self.variables.clone() }
    }

    fn load_unread(&self) -> Result<Loaded, Invalid> {
        load_in(Some(&self.path("forwarder.toml")), &self.surroundings(), Secrets::Unread)
    }

    fn to_show(&self) -> Loaded {
        load_in(Some(Path::new("forwarder.toml")), &self.surroundings(), Secrets::Unread).unwrap()
    }

    fn load(&self) -> Result<Loaded, Invalid> {
        load_in(Some(Path::new("forwarder.toml")), &self.surroundings(), Secrets::MustBeReadable)
    }

    fn settings(&self) -> Settings {
        match self.load() {
            Ok(loaded) => loaded.settings,
            Err(invalid) => panic!("{invalid}"),
        }
    }

    /// The mistakes as people read them, the directory's name replaced.
    fn mistakes(&self) -> String {
        let invalid = self.load().expect_err("this configuration must be refused");
        invalid.to_string().replace(self.directory.path().to_str().unwrap(), "[directory]")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn acme(forwarder: &str) -> Written {
    Written::new(forwarder).org("acme", ACME)
}

#[test]
fn an_empty_forwarder_file_means_the_defaults() {
    let written = acme("");
    let settings = written.settings();
    assert_eq!(
        settings,
        Settings {
            state_dir: "/var/lib/pulumi-audit-forwarder".into(),
            admin: Some("127.0.0.1:9465".parse().unwrap()),
            log: LogSettings { level: "info".into(), format: LogFormat::Auto },
            journal: JournalSettings { max_bytes_per_org: 2 << 30, retain: Duration::from_secs(7 * 86_400) },
            orgs: vec![OrgSettings {
                id: OrgId::new("acme").unwrap(),
                org: "acme-corp".into(),
                start: Start::Now,
                source: SourceSettings {
                    api_url: "https://api.pulumi.com".into(),
                    poll_interval: Duration::from_secs(300),
                    overlap: Duration::from_secs(900),
                    settle: Duration::ZERO,
                    rescan_after: [3_600, 21_600, 86_400].map(Duration::from_secs).into(),
                    requests_per_second: 2.0,
                    host_requests_per_second: 10.0,
                    route: Route::default(),
                    credentials: SourceCredentials::Stored {
                        token: crate::secret::SecretSource {
                            place: Place::File(written.path("orgs/../token")),
                            group_may_read: false,
                        },
                        next_token: None,
                    },
                },
                sentinel: None,
                s3: None,
                file: Some(FileSettings { path: written.path("orgs/../archive") }),
            }],
            warnings: vec![],
        }
    );
}

#[test]
fn the_orgs_file_wins_over_the_forwarders_and_the_environment_over_both() {
    let written = Written::new("[source]\npoll_interval = \"1m\"\noverlap = \"2m\"\nsettle = \"3s\"\n")
        .org("acme", &ACME.replace("[source]", "[source]\noverlap = \"20m\"\nsettle = \"30s\""))
        .variable("PAF_SOURCE__SETTLE", "9s")
        .variable("PAF_SOURCE__RESCAN_AFTER", r#"["2h", "1h", "2h"]"#)
        .variable("PAF_SOURCE__REQUESTS_PER_SECOND", "0.5")
        .variable("PAF_ADMIN__LISTEN", "off")
        .variable("PAF_CONFIG", "/nowhere");
    let settings = written.settings();
    let source = &settings.orgs[0].source;
    assert_eq!(source.poll_interval, Duration::from_secs(60), "from forwarder.toml");
    assert_eq!(source.overlap, Duration::from_secs(1_200), "from the org's file");
    assert_eq!(source.settle, Duration::from_secs(9), "from the environment");
    assert_eq!(source.rescan_after, [3_600, 7_200].map(Duration::from_secs), "ascending, without repeats");
    assert_eq!(source.requests_per_second, 0.5);
    assert_eq!(settings.admin, None);
}

#[test]
fn a_variable_that_looks_like_a_number_may_be_a_text() {
    let written = Written::new("")
        .org("acme", "org = \"a\"\nsource.token.file = \"../token\"\ns3.bucket = \"acme-audit\"\n")
        .variable("PAF_S3__PREFIX", "2026")
        .variable("PAF_S3__REGION", "true");
    let s3 = written.settings().orgs[0].s3.clone().unwrap();
    assert_eq!((s3.prefix.as_str(), s3.region.as_deref()), ("2026", Some("true")));
}

#[test]
fn a_shared_section_gives_defaults_and_enables_nothing() {
    let written =
        Written::new("[s3]\nbucket = \"shared-audit\"\nprefix = \"/pulumi/\"\n[file]\npath = \"archive\"\n")
            .org("acme", ACME)
            .org("beta", "org = \"beta\"\nsource.token.file = \"../token\"\n[s3]\n")
            .org("gamma", "org = \"gamma\"\nsource.token.file = \"../token\"\n[s3]\nprefix = \"\"\n[file]\n");
    let settings = written.settings();
    let names: Vec<_> = settings.orgs.iter().map(|org| org.destinations()).collect();
    use crate::destination::DestinationName::{File, S3};
    assert_eq!(names, [vec![File], vec![S3], vec![S3, File]]);
    let s3 = |org: usize| settings.orgs[org].s3.clone().unwrap();
    assert_eq!((s3(1).bucket.as_str(), s3(1).prefix.as_str()), ("shared-audit", "pulumi"));
    assert_eq!((s3(2).bucket.as_str(), s3(2).prefix.as_str()), ("shared-audit", ""));
    assert_eq!(settings.orgs[2].file, Some(FileSettings { path: written.path("archive") }));
}

#[test]
fn what_is_asked_of_s3_is_taken_over() {
    let s3 = |more: &str| {
        let text =
            format!("org = \"a\"\nsource.token.file = \"../token\"\n[s3]\nbucket = \"acme-audit\"\n{more}");
        Written::new("").org("acme", &text).settings().orgs[0].s3.clone().unwrap()
    };
    let plain = s3("");
    assert_eq!((plain.fips, plain.dual_stack, plain.force_path_style), (false, false, false));
    assert_eq!((plain.credentials, plain.role), (S3Credentials::Default, None));
    assert_eq!((plain.encryption, plain.object_lock, plain.storage_class), (None, None, None));
    assert_eq!((plain.expected_bucket_owner, plain.checksums), (None, S3Checksums::WhenSupported));

    let role = "arn:aws-us-gov:iam::123456789012:role/team/audit-writer";
    let much = s3(&format!(
        "profile = \"audit writer\"\nrole_arn = \"{role}\"\nexternal_id = \"acme:7\"\nfips = true\ndual_stack = true\n\
         sse = \"aws:kms\"\nkms_key_id = \"alias/audit\"\nobject_lock = {{ mode = \"COMPLIANCE\", retain = \"2555d\" }}\n\
         storage_class = \"STANDARD_IA\"\nexpected_bucket_owner = \"123456789012\"\nchecksums = \"when_required\"\n"
    ));
    assert_eq!(much.credentials, S3Credentials::Profile("audit writer".into()));
    let found = much.role.unwrap();
    assert_eq!((found.arn.as_str(), found.external_id.as_deref()), (role, Some("acme:7")));
    assert_eq!(found.session_name, "pulumi-audit-forwarder");
    assert!(much.fips && much.dual_stack);
    assert_eq!(much.encryption, Some(S3Encryption::Kms { key_id: Some("alias/audit".into()) }));
    let retain = Duration::from_secs(2_555 * 86_400);
    assert_eq!(much.object_lock, Some(S3ObjectLock { mode: S3LockMode::Compliance, retain }));
    assert_eq!(much.storage_class.as_deref(), Some("STANDARD_IA"));
    assert_eq!(much.expected_bucket_owner.as_deref(), Some("123456789012"));
    assert_eq!(much.checksums, S3Checksums::WhenRequired);

    let governed = s3("sse = \"AES256\"\nobject_lock.mode = \"GOVERNANCE\"\nobject_lock.retain = \"1d\"\n");
    assert_eq!(governed.encryption, Some(S3Encryption::Store));
    assert_eq!(governed.object_lock.unwrap().mode, S3LockMode::Governance);
}

#[test]
fn a_path_is_relative_to_the_file_it_stands_in() {
    let written = Written::new("")
        .file(
            "etc/forwarder.toml",
            "state_dir = \"../state\"\norgs_dir = \"../tenants\"\n[source]\ntoken.file = \"shared\"\n",
        )
        .secret("etc/shared", "shared", 0o600)
        .secret("tenants/own", "own", 0o600)
        .file(
            "tenants/acme.toml",
            "org = \"a\"\n[source]\ntoken = { file = \"own\" }\n[file]\npath = \"out\"\n",
        )
        .file("tenants/beta.toml", "org = \"b\"\n[file]\npath = \"/out\"\n")
        .variable("PAF_CONFIG", "etc/forwarder.toml");
    let settings = load_in(None, &written.surroundings(), Secrets::MustBeReadable).unwrap().settings;
    let token = |org: usize| settings.orgs[org].source.credentials.secrets()[0].place.clone();
    assert_eq!(settings.state_dir, written.path("etc/../state"));
    assert_eq!(token(0), Place::File(written.path("etc/../tenants/own")));
    assert_eq!(token(1), Place::File(written.path("etc/shared")));
    assert_eq!(settings.orgs[0].file, Some(FileSettings { path: written.path("etc/../tenants/out") }));
    assert_eq!(settings.orgs[1].file, Some(FileSettings { path: "/out".into() }));
}

#[test]
fn a_path_from_the_environment_is_relative_to_the_working_directory() {
    let written = acme("state_dir = \"/elsewhere\"").variable("PAF_STATE_DIR", "state");
    assert_eq!(written.settings().state_dir, written.path("state"));
}

#[test]
fn the_state_directory_of_systemd_is_the_default_but_not_more() {
    let systemd = "/var/lib/private/paf:/var/lib/other";
    let written = acme("").variable("STATE_DIRECTORY", systemd);
    assert_eq!(written.settings().state_dir, Path::new("/var/lib/private/paf"));
    let written = acme("state_dir = \"/mine\"").variable("STATE_DIRECTORY", systemd);
    assert_eq!(written.settings().state_dir, Path::new("/mine"));
}

#[test]
fn the_local_file_is_found_below_the_working_directory() {
    let written = Written::new("")
        .file("config/forwarder.toml", "")
        .file("config/orgs/acme.toml", &ACME.replace("../", "../../"));
    let loaded = load_in(None, &written.surroundings(), Secrets::MustBeReadable).unwrap();
    assert_eq!(loaded.file, written.path("config/forwarder.toml"));
    assert_eq!(loaded.orgs_dir, written.path("config/orgs"));
}

#[test]
fn an_upper_choice_of_a_secret_or_identity_replaces_the_lower_one_whole() {
    let forwarder = format!("[source]\ntoken = {{ env = \"ABSENT\" }}\n{}", {
        let identity = "{ kind = \"client_secret\", tenant_id = \"shared\", client_id = \"shared\", secret = { env = \"ABSENT\" } }";
        format!("[sentinel]\nidentity = {identity}\n")
    });
    let settings = Written::new(&forwarder)
        .org("acme", SENTINEL)
        .org(
            "beta",
            &SENTINEL
                .replace("acme-corp", "beta")
                .replace("kind = \"client_secret\", tenant_id = \"t\", ", ""),
        )
        .settings();
    let identity = |org: usize| match settings.orgs[org].sentinel.clone().unwrap().identity {
        AzureIdentity::ClientSecret { tenant_id, client_id, .. } => (tenant_id, client_id),
        other => panic!("{other:?}"),
    };
    assert!(matches!(settings.orgs[0].source.credentials.secrets()[0].place, Place::File(_)));
    assert_eq!(identity(0), ("t".into(), "c".into()));
    assert_eq!(
        identity(1),
        ("shared".into(), "c".into()),
        "without a kind of its own, single keys are replaced"
    );
}

const EXCHANGED: &str = r#"
org = "acme-corp"
source.oidc = { subject_token_file = "../subject" }

[file]
path = "../archive"
"#;

fn oidc(settings: &Settings, org: usize) -> Oidc {
    match &settings.orgs[org].source.credentials {
        SourceCredentials::Exchanged(oidc) => oidc.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_exchange_asks_for_the_orgs_own_token_unless_more_is_said() {
    let person = "source.oidc = { subject_token_file = \"/subject\", token_type = \"personal\", scope = \"user:ada\", \
                  expiration = \"24h\", organization = \"main\" }";
    // As Kubernetes writes it: readable by others.
    let written = Written::new("").secret("subject", "a.b.c\n", 0o644).org("acme", EXCHANGED).org(
        "beta",
        &ACME.replace("acme-corp", "beta").replace("[source]\ntoken = { file = \"../token\" }", person),
    );
    let loaded = load_in(Some(Path::new("forwarder.toml")), &written.surroundings(), Secrets::Unread);
    let loaded = loaded.unwrap().settings;
    assert_eq!(
        oidc(&loaded, 0),
        Oidc {
            organization: "acme-corp".into(),
            subject_token_file: written.path("orgs/../subject"),
            token_type: TokenType::Organization,
            scope: String::new(),
            expiration: None,
        }
    );
    assert_eq!(
        oidc(&loaded, 1),
        Oidc {
            organization: "main".into(),
            subject_token_file: "/subject".into(),
            token_type: TokenType::Personal,
            scope: "user:ada".into(),
            expiration: Some(Duration::from_secs(86_400)),
        }
    );
    let exchanged = Written::new("").secret("subject", "a.b.c\n", 0o644).org("acme", EXCHANGED).settings();
    assert_eq!(exchanged.warnings, Vec::<String>::new());
}

#[test]
fn a_token_or_an_exchange_of_the_org_stands_in_place_of_the_other_in_the_forwarders_file() {
    let exchange = "[source]\noidc = { subject_token_file = \"subject\", expiration = \"1h\" }\n";
    let settings = Written::new(exchange)
        .secret("subject", "a.b.c", 0o600)
        .org("acme", ACME)
        .org("beta", "org = \"beta\"\nsource.oidc.token_type = \"organization\"\n[file]\npath = \"/x\"\n")
        .settings();
    assert_eq!(settings.orgs[0].source.credentials.secrets().len(), 1);
    let beta = oidc(&settings, 1);
    assert_eq!((beta.organization.as_str(), beta.expiration), ("beta", Some(Duration::from_secs(3_600))));

    let stored = "[source]\ntoken = { file = \"token\" }\nnext_token = { file = \"token\" }\n";
    let settings = Written::new(stored).secret("subject", "a.b.c", 0o600).org("acme", EXCHANGED).settings();
    assert_eq!(oidc(&settings, 0).organization, "acme-corp");
}

#[test]
fn a_secret_in_an_environment_is_not_opened_when_the_configuration_is_loaded() {
    let secret = "secret = { file = \"../token\" }";
    let esc = "secret = { esc = \"acme/infra/siem@stable#azure.secret\" }";
    let s3 = "[s3]\nbucket = \"audit\"\naccess_key_id = \"AKIA\"\nsecret_access_key.esc = \"acme/infra/siem#aws[0]\"\n";
    let settings = Written::new("").org("acme", &(SENTINEL.replace(secret, esc) + s3)).settings();
    let org = &settings.orgs[0];
    let place = |name| match &org.secrets_of(name)[..] {
        [source] => match &source.place {
            Place::Esc(place) => place.clone(),
            other => panic!("{other}"),
        },
        other => panic!("{other:?}"),
    };
    let azure = place(crate::destination::DestinationName::Sentinel);
    assert_eq!(azure.to_string(), "ESC environment acme/infra/siem@stable#azure.secret");
    assert_eq!(azure.access, org.source.access(), "it is opened with the org's own token");
    let aws = place(crate::destination::DestinationName::S3);
    assert_eq!(aws.to_string(), "ESC environment acme/infra/siem#aws[0]");
}

#[test]
fn each_secret_may_have_a_second_one() {
    let text = SENTINEL.replace(
        "secret = { file = \"../token\" }",
        "secret = { file = \"../token\" }, next_secret = { file = \"../next\" }",
    ) + "[s3]\nbucket = \"audit\"\naccess_key_id = \"AKIA\"\nsecret_access_key = { file = \"../token\" }\n\
         next_access_key_id = \"AKIB\"\nnext_secret_access_key = { file = \"../next\" }\n";
    assert!(text.contains("next_secret ="), "the fixture has a client secret: {text}");
    let written = Written::new("").org("acme", &text).secret("next", "second", 0o600);
    let settings = written.settings();
    let place = Place::File(written.path("orgs/../next"));
    let AzureIdentity::ClientSecret { next_secret: Some(next), .. } =
        settings.orgs[0].sentinel.clone().unwrap().identity
    else {
        panic!()
    };
    assert_eq!(next.place, place);
    let S3Credentials::Static { next: Some(next), .. } = &settings.orgs[0].s3.as_ref().unwrap().credentials
    else {
        panic!()
    };
    assert_eq!((next.access_key_id.as_str(), &next.secret_access_key.place), ("AKIB", &place));

    let certificate = "{ kind = \"client_certificate\", tenant_id = \"t\", client_id = \"c\", certificate = { file = \"../token\" }, \
                       next_certificate = { file = \"../next.p12\" }, next_password = { file = \"../token\" } }";
    let written = azure_identity(certificate, &[]).secret("next.p12", "x\ny\n", 0o600);
    let AzureIdentity::ClientCertificate { next: Some(next), password: None, .. } =
        written.settings().orgs[0].sentinel.clone().unwrap().identity
    else {
        panic!()
    };
    assert_eq!(next.certificate.place, Place::File(written.path("orgs/../next.p12")));
    assert_eq!(next.password.unwrap().place, Place::File(written.path("orgs/../token")));
}

#[test]
fn chunks_are_packed_for_storage_only_where_a_destination_stores_them() {
    let named = |org: &str, more: &str| SENTINEL.replace("acme-corp", org) + more;
    let settings = Written::new("")
        .org("acme", &named("acme", ""))
        .org("beta", &named("beta", "[s3]\nbucket = \"audit\"\n"))
        .org("gamma", &named("gamma", "[file]\npath = \"archive\"\n"))
        .settings();
    let packings: Vec<_> = settings.orgs.iter().map(|org| org.packing()).collect();
    assert_eq!(packings, [Packing::Passing, Packing::Stored, Packing::Stored]);
}

#[test]
fn a_cloud_sets_authority_and_scope_and_both_can_be_overridden() {
    let sentinel = |more: &str| {
        let text = SENTINEL.replace("[sentinel]", &format!("[sentinel]\n{more}"));
        Written::new("").org("acme", &text).settings().orgs[0].sentinel.clone().unwrap()
    };
    let public = sentinel("");
    assert_eq!(public.authority, "https://login.microsoftonline.com");
    assert_eq!(public.scope, "https://monitor.azure.com/.default");
    assert_eq!((public.stream.as_str(), public.raw_event), ("Custom-PulumiAuditLogs_CL", false));
    let government = sentinel("cloud = \"usgov\"");
    assert_eq!(government.authority, "https://login.microsoftonline.us");
    assert_eq!(government.scope, "https://monitor.azure.us/.default");
    let china = sentinel("cloud = \"china\"");
    assert_eq!(china.authority, "https://login.chinacloudapi.cn");
    assert_eq!(china.scope, "https://monitor.azure.cn/.default");
    let own =
        sentinel("cloud = \"china\"\nauthority = \"https://localhost:7/\"\nscope = \"https://x/.default\"");
    assert_eq!((own.authority.as_str(), own.scope.as_str()), ("https://localhost:7", "https://x/.default"));
}

/// The org's Azure identity, written so, with these variables.
fn azure_identity(written: &str, variables: &[(&str, &str)]) -> Written {
    let lines = SENTINEL.lines().filter(|line| !line.starts_with("identity"));
    let text = format!("{}\nidentity = {written}\n", lines.collect::<Vec<_>>().join("\n"));
    variables
        .iter()
        .fold(Written::new("").org("acme", &text), |written, (name, value)| written.variable(name, value))
}

#[test]
fn every_kind_of_azure_identity_is_understood() {
    let read = |written: &Written| written.settings().orgs[0].sentinel.clone().unwrap().identity;
    let identity = |text: &str| read(&azure_identity(text, &[]));
    let machine = |id| AzureIdentity::ManagedIdentity { host: ManagedHost::Machine, id };
    assert_eq!(identity("{ kind = \"managed_identity\" }"), machine(ManagedId::System));
    assert_eq!(
        identity("{ kind = \"managed_identity\", client_id = \"c\" }"),
        machine(ManagedId::Client("c".into()))
    );
    assert_eq!(
        identity("{ kind = \"managed_identity\", object_id = \"o\" }"),
        machine(ManagedId::Object("o".into()))
    );
    assert_eq!(
        identity("{ kind = \"managed_identity\", resource_id = \"/subscriptions/s/x\" }"),
        machine(ManagedId::Resource("/subscriptions/s/x".into()))
    );
    assert_eq!(identity("{ kind = \"azure_cli\" }"), AzureIdentity::AzureCli { tenant_id: None });
    assert_eq!(
        identity("{ kind = \"azure_cli\", tenant_id = \"t\" }"),
        AzureIdentity::AzureCli { tenant_id: Some("t".into()) }
    );

    let certificate = "{ kind = \"client_certificate\", tenant_id = \"t\", client_id = \"c\", certificate = { file = \"../pair.pem\" }, password = { file = \"../token\" } }";
    let written = azure_identity(certificate, &[]).secret("pair.pem", "two\nlines\n", 0o600);
    let AzureIdentity::ClientCertificate { certificate, password: Some(password), .. } = read(&written)
    else {
        panic!()
    };
    assert_eq!(certificate.place, Place::File(written.path("orgs/../pair.pem")));
    assert_eq!(password.place, Place::File(written.path("orgs/../token")));

    let projected = [
        ("AZURE_CLIENT_ID", "c"),
        ("AZURE_TENANT_ID", "t"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/var/run/secrets/azure/tokens/azure-identity-token"),
    ];
    let workload = |tenant_id: &str, client_id: &str, token_file: PathBuf| AzureIdentity::WorkloadIdentity {
        tenant_id: tenant_id.into(),
        client_id: client_id.into(),
        token_file,
    };
    let of_aks = workload("t", "c", "/var/run/secrets/azure/tokens/azure-identity-token".into());
    assert_eq!(read(&azure_identity("{ kind = \"workload_identity\" }", &projected)), of_aks);
    let own =
        "{ kind = \"workload_identity\", tenant_id = \"t2\", client_id = \"c2\", token_file = \"token\" }";
    let written = azure_identity(own, &projected);
    assert_eq!(read(&written), workload("t2", "c2", written.path("orgs/token")));

    let app_service = [("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token"), ("IDENTITY_HEADER", "canary")];
    let AzureIdentity::ManagedIdentity {
        host: ManagedHost::AppService { endpoint, header },
        id: ManagedId::System,
    } = read(&azure_identity("{ kind = \"managed_identity\" }", &app_service))
    else {
        panic!()
    };
    assert_eq!(endpoint, "http://127.0.0.1:1/msi/token");
    assert_eq!(header.place, Place::Env("IDENTITY_HEADER".into()));
}

#[test]
fn the_default_identity_is_the_first_that_the_environment_has() {
    let chosen = |variables: &[(&str, &str)]| {
        let loaded = azure_identity("{ kind = \"default\" }", variables).load_unread().unwrap();
        let AzureIdentity::Found(found) = loaded.settings.orgs[0].sentinel.clone().unwrap().identity else {
            return None;
        };
        Some(*found)
    };
    let ids = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
    let secret = ("AZURE_CLIENT_SECRET", "canary");
    let certificate = ("AZURE_CLIENT_CERTIFICATE_PATH", "/pair.pem");
    let projected = ("AZURE_FEDERATED_TOKEN_FILE", "/token");
    let app_service = [("IDENTITY_ENDPOINT", "http://127.0.0.1:1/"), ("IDENTITY_HEADER", "canary")];
    let with = |more: &[(&'static str, &'static str)]| chosen(&[&ids[..], more].concat());
    assert!(matches!(with(&[secret, certificate, projected]), Some(AzureIdentity::ClientSecret { .. })));
    assert!(matches!(
        with(&[certificate, projected]),
        Some(AzureIdentity::ClientCertificate { password: None, .. })
    ));
    assert!(matches!(
        with(&[projected, app_service[0], app_service[1]]),
        Some(AzureIdentity::WorkloadIdentity { .. })
    ));
    assert!(matches!(
        with(&app_service),
        Some(AzureIdentity::ManagedIdentity { host: ManagedHost::AppService { .. }, id: ManagedId::Client(id) }) if id == "c"
    ));
    assert!(chosen(&[]).is_none() && with(&[]).is_none(), "asked for when a token is needed");
}

#[test]
fn the_columns_choose_the_stream_unless_it_is_given() {
    let loaded = |forwarder: &str, more: &str| {
        let text = SENTINEL.replace("[sentinel]", &format!("[sentinel]\n{more}"));
        Written::new(forwarder).org("acme", &text)
    };
    let sentinel = |forwarder: &str, more: &str| {
        let sentinel = loaded(forwarder, more).settings().orgs[0].sentinel.clone().unwrap();
        (sentinel.columns, sentinel.stream)
    };
    let ours = || "Custom-PulumiAuditLogs_CL".to_owned();
    let pulumis = || "Custom-PulumiAuditLogs".to_owned();
    assert_eq!(sentinel("", ""), (Columns::Extended, ours()));
    assert_eq!(sentinel("", "columns = \"official\""), (Columns::Official, ours()));
    assert_eq!(sentinel("", "columns = \"connector\""), (Columns::Connector, pulumis()));
    let shared = "[sentinel]\ncolumns = \"connector\"";
    assert_eq!(sentinel(shared, ""), (Columns::Connector, pulumis()));
    assert_eq!(sentinel(shared, "columns = \"official\""), (Columns::Official, ours()));
    assert_eq!(sentinel(shared, "stream = \"Custom-Own\""), (Columns::Connector, "Custom-Own".to_owned()));
    let from_outside = loaded("", "").variable("PAF_SENTINEL__COLUMNS", "connector").to_show();
    assert_eq!(from_outside.settings.orgs[0].sentinel.as_ref().unwrap().stream, pulumis());
    let stream =
        from_outside.org_values[0].2.iter().find(|value| value.key == ["sentinel", "stream"]).unwrap();
    assert_eq!((stream.value.as_str(), stream.origin.as_str()), ("\"Custom-PulumiAuditLogs\"", "default"));
}

#[test]
fn a_start_is_now_or_a_time_in_quotes_or_without() {
    let at = Start::At(crate::clock::Second::parse_rfc3339("2026-01-02T03:04:05Z").unwrap());
    for (text, start) in
        [("\"now\"", Start::Now), ("\"2026-01-02T04:04:05+01:00\"", at), ("2026-01-02T03:04:05Z", at)]
    {
        let settings = Written::new("").org("acme", &format!("start = {text}\n{ACME}")).settings();
        assert_eq!(settings.orgs[0].start, start, "{text}");
    }
}

#[test]
fn unencrypted_addresses_elsewhere_need_leave_and_are_warned_of() {
    let source = "[source]\napi_url = \"http://pulumi.internal\"\nallow_http = true\n";
    let settings = acme(source).org("beta", &ACME.replace("acme-corp", "beta")).settings();
    assert_eq!(
        settings.warnings,
        [
            "forwarder.toml:2: source.api_url is not encrypted: whoever listens on the way reads what is sent, credentials too; use https://"
        ]
    );
    let settings = acme("[source]\napi_url = \"http://127.0.0.1:8080\"\n").settings();
    assert!(settings.warnings.is_empty(), "loopback needs no leave");
}

#[test]
fn group_readable_secrets_need_leave() {
    let written = acme("").secret("token", "secret", 0o440);
    assert!(written.mistakes().contains("allow_group_readable_secrets"));
    let written = acme("allow_group_readable_secrets = true").secret("token", "secret", 0o440);
    assert!(written.settings().orgs[0].source.credentials.secrets()[0].group_may_read);
}

#[test]
fn commands_that_use_no_secret_can_do_without() {
    let written = acme("");
    std::fs::remove_file(written.path("token")).unwrap();
    assert!(written.load().is_err());
    assert!(load_in(Some(Path::new("forwarder.toml")), &written.surroundings(), Secrets::Unread).is_ok());
}

#[test]
fn hidden_files_and_others_in_the_orgs_directory_are_passed_over() {
    let written =
        acme("").file("orgs/.hidden.toml", "x").file("orgs/beta.toml.example", "x").file("orgs/README", "x");
    assert_eq!(written.settings().orgs.len(), 1);
}

#[test]
fn every_value_is_shown_with_its_origin() {
    let written = acme("[journal]\nretain = \"1d\"\n").variable("PAF_LOG__LEVEL", "debug");
    let loaded = written.to_show();
    let origin = |key: &str| {
        let mut values = loaded.forwarder_values.iter().chain(&loaded.org_values[0].2);
        let found = values.find(|value| value.key.join(".") == key).unwrap();
        format!("{} # {}", found.value, found.origin)
    };
    assert_eq!(origin("state_dir"), "\"/var/lib/pulumi-audit-forwarder\" # default");
    assert_eq!(origin("journal.retain"), "\"1d\" # forwarder.toml:2");
    assert_eq!(origin("log.level"), "\"debug\" # environment PAF_LOG__LEVEL");
    assert_eq!(origin("source.token.file"), "\"../token\" # orgs/acme.toml:5");
    assert_eq!(origin("start"), "\"now\" # default");
}

#[test]
fn no_value_that_may_be_a_secret_is_printed() {
    const CANARY: &str = "pul-canary";
    for org in [
        "token = \"pul-canary\"",
        "[source]\ntoken = \"pul-canary\"",
        "[source]\ntoken = \"pul-canary",
        "[source]\ntoken = pul-canary",
        "[source]\ntoken = \"\"\"\npul-canary\n",
        "[source]\ntoken = { file = \"../token\" } pul-canary",
        "[source]\ntoken = [\"pul-canary\"]",
        "[source]\ntoken = { value = \"pul-canary\" }",
        "[source]\ntoken = { file = \"pul-canary\" }",
        "[source]\ntoken = { env = \"pul-canary\" }",
        "[source]\ntoken = { file = \"../token\", env = \"X\", value = \"pul-canary\" }",
        "[source]\ntokn = \"pul-canary\"",
        "[source]\napi_url = \"https://me:pul-canary@host\"",
        "[source]\napi_url = \"https://host?token=pul-canary\"",
        "[s3]\nsecret_access_key = \"pul-canary\"",
        "[s3]\naccess_key_id = \"x\"\nsecret_access_key = { literal = \"pul-canary\" }",
        "[sentinel]\nidentity = { kind = \"x\", secret = \"pul-canary\" }",
        "[sentinel]\nidentity = { kind = \"client_secret\", client_secret = \"pul-canary\" }",
        "pul-canary",
    ] {
        let mistakes = Written::new("").org("acme", org).mistakes();
        assert!(!mistakes.contains(CANARY), "{org}\n{mistakes}");
    }
    for (name, value) in [
        ("PAF_SOURCE__TOKEN", CANARY),
        ("PAF_TOKEN", CANARY),
        ("PAF_SOURCE__TOKEN__FILE", CANARY),
        ("PAF_SOURCE", r#"{token={file="/x",value="pul-canary"},poll_interval="0s",rescan_after=["0"]}"#),
        ("PAF_SOURCE__API_URL", "https://a:pul-canary@b"),
    ] {
        let mistakes = acme("").variable(name, value).mistakes();
        assert!(mistakes.contains(name) && !mistakes.contains(CANARY), "{mistakes}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_is_written_is_loaded_or_refused(at in 0..SENTINEL.len(), cut in 0..40_usize, put in "\\PC{0,12}|[\\[\\]{}=.\"'\n0-9a-z_]{0,12}") {
        let until = (at + cut).min(SENTINEL.len());
        let text = format!("{}{put}{}", &SENTINEL[..at], &SENTINEL[until..]);
        if let Err(invalid) = Written::new("").org("acme", &text).load() {
            assert!(!invalid.mistakes.is_empty(), "{text}");
        }
    }
}

/// Golden: what is written, and what its writer is told.
#[test]
fn every_mistake_is_answered_with_its_place_and_remedy() {
    let mut page = String::new();
    let mut say = |title: &str, written: Written| {
        writeln!(page, "# {title}\n{}\n", written.mistakes()).unwrap();
    };
    let org = |text: &str| Written::new("").org("acme", text);
    let in_acme = |section: &str, more: &str| org(&ACME.replace(section, &format!("{section}\n{more}")));
    let source = |more: &str| in_acme("[source]", more);
    let sentinel = |more: &str| org(&SENTINEL.replace("[sentinel]", &format!("[sentinel]\n{more}")));
    let sentinel_without = |key: &str| {
        let lines = SENTINEL.lines().filter(|line| !line.starts_with(key));
        org(&lines.collect::<Vec<_>>().join("\n"))
    };
    let identity = |identity: &str| {
        let lines = SENTINEL.lines().filter(|line| !line.starts_with("identity"));
        org(&format!("{}\nidentity = {identity}\n", lines.collect::<Vec<_>>().join("\n")))
    };
    let s3 = |text: &str| org(&format!("org = \"a\"\nsource.token.file = \"../token\"\n\n[s3]\n{text}\n"));

    say("not TOML", Written::new("state_dir = /var/lib\n[source]\npoll_interval = 5m\n").org("acme", ACME));
    say("a key twice", acme("orgs_dir = \"orgs\"\norgs_dir = \"orgs\"\n"));
    say("unknown keys", acme("stat_dir = \"/x\"\n[journal]\nmax_size = \"1GiB\"\n[metrics]\nport = 1\n"));
    say(
        "wrong types",
        acme(
            "state_dir = 5\nallow_group_readable_secrets = \"yes\"\nadmin = 9465\n[source]\nrequests_per_second = \"2\"\npoll_interval = 300\nrescan_after = \"1h\"\n",
        ),
    );
    say(
        "no unit",
        acme(
            "[journal]\nmax_bytes_per_org = \"2\"\nretain = \"7 days\"\n[source]\nrescan_after = [\"1h\", \"6\"]\n",
        ),
    );
    say(
        "unknown values",
        acme("[log]\nlevel = \"verbose\"\nformat = \"xml\"\n[admin]\nlisten = \"localhost\"\n"),
    );
    say("empty paths", acme("state_dir = \"\"\n"));
    say(
        "too small",
        acme(
            "[journal]\nmax_bytes_per_org = \"1KiB\"\n[source]\npoll_interval = \"0s\"\nrescan_after = [\"0s\"]\nrequests_per_second = 0\nhost_requests_per_second = -1\n",
        ),
    );
    say("not a number", acme("[source]\nrequests_per_second = nan\n"));
    say("a number too large", acme("[source]\nrequests_per_second = 99999999999999999999\n"));
    say("environment: unknown key", acme("").variable("PAF_STATE_DRI", "/x"));
    say("environment: wrong value", acme("").variable("PAF_SOURCE__POLL_INTERVAL", "300"));
    say("environment: too small", acme("").variable("PAF_SOURCE__POLL_INTERVAL", "0s"));
    say("environment: a key of the org", acme("").variable("PAF_ORG", "acme"));

    say("no orgs directory", Written::new(""));
    say("empty orgs directory", Written::new("orgs_dir = \"tenants\"").file("tenants/readme", ""));
    say("file name that is no id", acme("").file("orgs/Acme Corp.toml", ACME));
    say(
        "the same organization twice",
        acme("").org("beta", ACME).org("gamma", &ACME.replace("acme-corp", "ACME-corp")),
    );
    say("empty org file", org(""));
    say(
        "org without a destination",
        Written::new("[s3]\nbucket = \"acme-audit\"\n")
            .org("acme", "org = \"a\"\nsource.token.file = \"../token\"\n"),
    );
    say("odd org names", org(&ACME.replace("acme-corp", "acme corp/x")));
    say("start without a zone", org(&format!("start = \"2026-01-01\"{ACME}")));
    say("start long ago", org(&format!("start = 1999-01-01T00:00:00Z{ACME}")));
    say(
        "shared key is told once",
        Written::new("[source]\noverlap = \"x\"\n[s3]\nbucket = 5\n")
            .org("acme", ACME)
            .org("beta", &ACME.replace("acme-corp", "beta")),
    );

    say("token missing", org("org = \"a\"\n[source]\n[file]\npath = \"/x\"\n"));
    say("token as a literal", source("next_token = \"pul-0\""));
    say("token in two places", source("next_token = { file = \"../token\", env = \"TOKEN\" }"));
    say("token nowhere", source("next_token = {}"));
    say("token in a file that is absent", source("next_token = { file = \"absent\" }"));
    say(
        "token in an empty file",
        source("next_token = { file = \"../empty\" }").secret("empty", "\n", 0o600),
    );
    say(
        "token that others can read",
        source("next_token = { file = \"../open\" }").secret("open", "x", 0o644),
    );
    say(
        "token that the group can read",
        source("next_token = { file = \"../open\" }").secret("open", "x", 0o640),
    );
    say("token of two words", source("next_token = { file = \"../odd\" }").secret("odd", "Bearer x", 0o600));
    say("token in an absent variable", source("next_token = { env = \"PAF_TEST_NEVER_SET\" }"));
    say("token out of an environment", source("next_token = { esc = \"acme/infra/siem#token\" }"));
    let exchange = |oidc: &str| {
        org(&format!("org = \"a\"\n[source]\noidc = {oidc}\n[file]\npath = \"/x\"\n"))
            .secret("subject", "a.b.c", 0o644)
    };
    say("exchange beside a token", source("oidc = { subject_token_file = \"../token\" }"));
    say("exchange of nothing", exchange("{}"));
    say("exchange of a file that is absent", exchange("{ subject_token_file = \"absent\" }"));
    say(
        "exchange of a literal",
        exchange("{ subject_token_file = \"../subject\", subject_token = \"eyJ\", token_type = \"runner\" }"),
    );
    say(
        "exchange for a team without its name",
        exchange("{ subject_token_file = \"../subject\", token_type = \"team\" }"),
    );
    say(
        "exchange: scope and life",
        exchange(
            "{ subject_token_file = \"../subject\", token_type = \"personal\", scope = \"team:x\", expiration = \"10s\" }",
        ),
    );
    say(
        "exchange: scope of an organization",
        exchange("{ subject_token_file = \"../subject\", scope = \"user:ada\" }"),
    );
    say(
        "exchange: organization",
        exchange("{ subject_token_file = \"../subject\", organization = \"a/b\" }"),
    );
    say("service address", source("api_url = \"api.pulumi.com\""));
    say("service address with a password", source("api_url = \"https://me:pw@pulumi.example\""));
    say("service address unencrypted", source("api_url = \"http://pulumi.example\""));
    say("authority file that is absent", source("ca_file = \"ca.pem\""));

    say("Sentinel: nothing given", org("org = \"a\"\nsource.token.file = \"../token\"\n[sentinel]\n"));
    say(
        "Sentinel: endpoint with a path",
        sentinel_without("endpoint")
            .org("acme", &SENTINEL.replace(".azure.com\"", ".azure.com/dataCollectionRules\"")),
    );
    say("Sentinel: rule", sentinel_without("rule_id"));
    say("Sentinel: rule by its resource id", org(&SENTINEL.replace("dcr-", "/subscriptions/0/dcr-")));
    say("Sentinel: stream", sentinel("stream = \"PulumiAuditLogs_CL\""));
    say("Sentinel: columns and cloud", sentinel("columns = \"all\"\ncloud = \"germany\""));
    say("Sentinel: raw event with other columns", sentinel("raw_event = true\ncolumns = \"official\""));
    say("Sentinel: authority unencrypted", sentinel("authority = \"http://127.0.0.1:7\""));
    say("Sentinel: scope", sentinel("scope = \"https://monitor.azure.com\""));
    say("Sentinel: identity of no kind", identity("{ kind = \"password\" }"));
    say(
        "Sentinel: identity with keys of another kind",
        identity("{ kind = \"managed_identity\", tenant_id = \"t\", secret = { file = \"../token\" } }"),
    );
    let esc = |place: &str| {
        identity(&format!(
            "{{ kind = \"client_secret\", tenant_id = \"t\", client_id = \"c\", secret = {{ {place} }} }}"
        ))
    };
    say("Sentinel: secret of no environment", esc("esc = \"acme/siem#azure.secret\""));
    say("Sentinel: secret of a whole environment", esc("esc = \"acme/infra/siem\""));
    say("Sentinel: secret in two places", esc("esc = \"acme/infra/siem#a\", file = \"../token\""));
    say("Sentinel: secret nowhere", esc(""));
    say("Sentinel: default identity with a key", identity("{ kind = \"default\", client_id = \"c\" }"));
    say(
        "Sentinel: managed identity named twice",
        identity("{ kind = \"managed_identity\", client_id = \"x\", object_id = \"y\" }"),
    );
    say(
        "Sentinel: managed identity by a name",
        identity("{ kind = \"managed_identity\", resource_id = \"my-identity\" }"),
    );
    say(
        "Sentinel: managed identity of Azure Arc",
        identity("{ kind = \"managed_identity\" }")
            .variable("IDENTITY_ENDPOINT", "http://localhost:40342/")
            .variable("IMDS_ENDPOINT", "http://localhost:40342"),
    );
    say("Sentinel: workload identity outside of AKS", identity("{ kind = \"workload_identity\" }"));
    say("Sentinel: tenant that is a path", identity("{ kind = \"azure_cli\", tenant_id = \"contoso;x\" }"));
    say(
        "Sentinel: certificate incomplete",
        identity("{ kind = \"client_certificate\", tenant_id = \"t\", client_id = \"c\" }"),
    );
    say(
        "Sentinel: certificate that others can read",
        identity(
            "{ kind = \"client_certificate\", tenant_id = \"t\", client_id = \"c\", certificate = { file = \"../open\" }, password = \"x\" }",
        )
        .secret("open", "x", 0o644),
    );
    say("Sentinel: identity incomplete", identity("{ kind = \"client_secret\", tenant_id = \"t\" }"));
    say(
        "Sentinel: identity without a kind",
        identity("{ tenant_id = \"t\", client_id = \"c\", secret = { file = \"../token\" } }"),
    );
    say(
        "Sentinel: secret as a literal",
        identity("{ kind = \"client_secret\", tenant_id = \"t\", client_id = \"c\", secret = \"s\" }"),
    );

    say(
        "Sentinel: next secret of another kind",
        identity("{ kind = \"managed_identity\", next_secret = { file = \"../token\" } }"),
    );
    say(
        "Sentinel: next password alone",
        identity(
            "{ kind = \"client_certificate\", tenant_id = \"t\", client_id = \"c\", certificate = { file = \"../token\" }, next_password = { file = \"../token\" } }",
        ),
    );

    say("S3: no bucket", s3(""));
    say("S3: bucket as an address", s3("bucket = \"s3://x\""));
    say("S3: bucket's name", s3("bucket = \"a b\""));
    say("S3: prefix", s3("bucket = \"acme-audit\"\nprefix = \"a//b\""));
    say("S3: half a key", s3("bucket = \"acme-audit\"\naccess_key_id = \"AKIA\""));
    say("S3: the other half", s3("bucket = \"acme-audit\"\nsecret_access_key = { file = \"../token\" }"));
    say(
        "S3: half a second key",
        s3(
            "bucket = \"acme-audit\"\naccess_key_id = \"AKIA\"\nsecret_access_key = { file = \"../token\" }\nnext_access_key_id = \"AKIB\"",
        ),
    );
    say(
        "S3: a second key alone",
        s3(
            "bucket = \"acme-audit\"\nnext_access_key_id = \"AKIB\"\nnext_secret_access_key = { file = \"../token\" }",
        ),
    );
    say("S3: endpoint unencrypted", s3("bucket = \"acme-audit\"\nendpoint_url = \"http://10.0.0.1:9000\""));
    let s3_with = |text: &str| s3(&format!("bucket = \"acme-audit\"\n{text}"));
    say("S3: profile and key", s3_with("profile = \"audit\"\naccess_key_id = \"AKIA\""));
    say("S3: role by its name", s3_with("role_arn = \"audit-writer\""));
    say("S3: role of another service", s3_with("role_arn = \"arn:aws:sts::123456789012:assumed-role/x/y\""));
    say("S3: session without a role", s3_with("external_id = \"acme-7\"\nsession_name = \"audit\""));
    say(
        "S3: odd session",
        s3_with(
            "role_arn = \"arn:aws:iam::123456789012:role/x\"\nexternal_id = \"a b\"\nsession_name = \"x\"",
        ),
    );
    say("S3: encryption", s3_with("sse = \"kms\""));
    say("S3: key without its encryption", s3_with("sse = \"AES256\"\nkms_key_id = \"alias/audit\""));
    say("S3: lock incomplete", s3_with("object_lock = {}"));
    say("S3: lock", s3_with("object_lock = { mode = \"governance\", retain = \"2555\", days = 7 }"));
    say("S3: lock too short", s3_with("object_lock = { mode = \"COMPLIANCE\", retain = \"1h\" }"));
    say(
        "S3: class, owner and checksums",
        s3_with("storage_class = \"standard-ia\"\nexpected_bucket_owner = \"1234\"\nchecksums = \"never\""),
    );
    say(
        "S3: endpoint and a choice among endpoints",
        s3_with("endpoint_url = \"https://s3.example\"\nfips = true\ndual_stack = true"),
    );
    say("file: no path", org("org = \"a\"\nsource.token.file = \"../token\"\n[file]\n"));
    say(
        "many at once, in several files",
        Written::new("[log]\nlevel = 1\n").org("acme", "org = 1\n[s3]\nbucket = 2\n").org("beta", "x = 1\n"),
    );

    insta::assert_snapshot!("mistakes", page);
}

/// Golden, as above: the files themselves, and the values that need more than their kind.
#[test]
fn every_wrong_file_is_answered_with_its_place_and_remedy() {
    use std::os::unix::ffi::OsStrExt;

    let mut page = String::new();
    let mut say = |title: &str, written: Written| {
        writeln!(page, "# {title}\n{}\n", written.mistakes()).unwrap();
    };
    let org = |text: &str| Written::new("").org("acme", text);
    let source = |more: &str| org(&ACME.replace("[source]", &format!("[source]\n{more}")));
    let sentinel = |more: &str| org(&SENTINEL.replace("[sentinel]", &format!("[sentinel]\n{more}")));
    let s3 = |text: &str| {
        org(&format!("org = \"a\"\nsource.token.file = \"../token\"\n\n[s3]\nbucket = \"audit\"\n{text}\n"))
    };
    let bytes = |written: Written, name: &str, bytes: &[u8]| {
        std::fs::write(written.path(name), bytes).unwrap();
        written
    };
    let directory = |written: Written, name: &str| {
        std::fs::remove_file(written.path(name)).ok();
        std::fs::create_dir_all(written.path(name)).unwrap();
        written
    };

    say("forwarder.toml is absent", {
        let written = acme("");
        std::fs::remove_file(written.path("forwarder.toml")).unwrap();
        written
    });
    say("forwarder.toml is a directory", directory(acme(""), "forwarder.toml"));
    say("an org's file is a directory", directory(acme(""), "orgs/acme.toml"));
    say("an org's file is a link to nowhere", {
        let written = acme("");
        std::os::unix::fs::symlink("nowhere", written.path("orgs/beta.toml")).unwrap();
        written
    });
    say("not UTF-8", bytes(acme(""), "forwarder.toml", b"state_dir = \"\xff\"\n"));
    say("a file that is far too large", bytes(acme(""), "orgs/acme.toml", &b"#\n".repeat(600_000)));
    say("a file's name that is not UTF-8", {
        let written = acme("");
        let name = std::ffi::OsStr::from_bytes(b"orgs/\xff.toml");
        std::fs::write(written.directory.path().join(name), ACME).unwrap();
        written
    });
    say("a file's name that forges a line", acme("").file("orgs/a\nb.toml", ACME));
    say("the orgs directory is a file", acme("orgs_dir = \"token\""));
    say("more syntax errors than help", acme(&"a = \n".repeat(9)));
    say("a long value", acme(&format!("[log]\nlevel = \"{}\"\n", "loud".repeat(100))));
    say("a table where a text belongs", acme("[state_dir]\nx = 1\n[log.level]\ny = 1\n"));
    say("a section twice", acme("[log]\nlevel = \"info\"\n[log]\nformat = \"json\"\n"));
    say("a section of the forwarder in an org's file", org(&format!("{ACME}\n[journal]\nretain = \"1d\"\n")));
    say("a key of the org in the forwarder's file", acme("org = \"acme-corp\"\n"));

    say("too many rescans", source(&format!("rescan_after = [{}]", "\"1h\", ".repeat(25))));
    say("rate: more than anybody serves", source("requests_per_second = 1001"));
    say("a period without end", source("overlap = \"40000d\""));
    say("a size without end", acme("[journal]\nmax_bytes_per_org = \"99999999TiB\"\n"));
    say("token: no name of a variable", source("next_token = { env = \"A=B\" }"));
    say("token: an empty path", source("next_token = { file = \"\" }"));
    say("token: a number for a path", source("next_token = { file = 5 }"));
    say("token: a key that is none", source("next_token = { path = \"../token\" }"));
    say("token: a directory", directory(source("next_token = { file = \"../folder\" }"), "folder"));
    say("authorities: no certificate in the file", source("ca_file = \"../token\""));
    say("proxy with credentials", source("proxy = \"http://me:pw@proxy.example:3128\""));
    say("proxy of another kind", source("proxy = \"socks5://proxy.example:1080\""));
    say(
        "proxy: a user name and no password",
        source("proxy = \"http://proxy:3128\"\nproxy_username = \"me\""),
    );
    say("proxy: a password for none", sentinel("proxy_password = { file = \"../token\" }"));
    say(
        "proxy before an unencrypted service",
        source("proxy = \"http://proxy:3128\"\napi_url = \"http://pulumi.example\"\nallow_http = true"),
    );
    say("client certificate: none in the file", source("client_certificate = { file = \"../token\" }"));
    say("client certificate: a key alone", source("client_key = { file = \"../token\" }"));
    say("client certificate for S3", s3("client_certificate = { file = \"../token\" }"));
    say("service address with a query", source("api_url = \"https://pulumi.example?x=1\""));
    say("service address of another kind", source("api_url = \"ftp://pulumi.example\""));

    say("Sentinel: endpoint unencrypted", org(&SENTINEL.replace("https://acme-x1y2", "http://acme-x1y2")));
    say("Sentinel: an empty stream", sentinel("stream = \"\""));
    say("Sentinel: authority with a path", sentinel("authority = \"https://login.example/tenant\""));
    say("Sentinel: scope with a space", sentinel("scope = \"a b/.default\""));
    say(
        "Sentinel: identity as a text",
        org(&SENTINEL.replace("identity = {", "identity = \"client_secret\"\nx = {")),
    );
    say("Sentinel: identity of no kind", org(&SENTINEL.replace("\"client_secret\"", "\"password\"")));
    say(
        "Sentinel: tenant with a space",
        org(&SENTINEL.replace("tenant_id = \"t\"", "tenant_id = \"my tenant\"")),
    );
    say("S3: region", s3("region = \"eu west 1\""));
    say("S3: prefix that climbs", s3("prefix = \"a/../b\""));
    say("S3: prefix without end", s3(&format!("prefix = \"{}\"", "a".repeat(600))));
    say("S3: endpoint with a password", s3("endpoint_url = \"https://me:pw@minio.example\""));
    say("file: an empty path", org(&ACME.replace("../archive", "")));

    insta::assert_snapshot!("files", page);

    let many = acme(&(0..60).map(|number| format!("unknown_{number} = 1\n")).collect::<String>()).mistakes();
    assert!(many.contains("unknown_49") && !many.contains("unknown_50"), "a screenful is enough");
    assert!(many.ends_with("\nand 10 more"), "{many}");
}

/// Whatever key is written with a value of the wrong kind: the mistake has the file, the line, the key, and what to write instead.
#[test]
fn every_key_with_a_value_of_the_wrong_kind_is_answered_with_its_line_and_a_remedy() {
    use serde_json::Value;

    fn keys(schema: &Value, root: &Value, at: &str, found: &mut Vec<(String, &'static str)>) {
        for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
            let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            let reference = schema.as_object().and_then(schema::referred);
            let whole = reference.map_or(schema, |name| &root["$defs"][name]);
            let wrong = match whole["type"].as_str() {
                Some("boolean" | "number" | "integer") => "\"x\"",
                _ => "5",
            };
            found.push((path.clone(), wrong));
            keys(whole, root, &path, found);
        }
    }
    let mut tried = 0;
    for (name, schema) in [("forwarder.toml", schema::forwarder()), ("orgs/acme.toml", schema::org())] {
        let mut found = Vec::new();
        keys(&schema, &schema, "", &mut found);
        for (key, wrong) in found {
            let text = format!("# a comment\n\n{key} = {wrong}\n");
            let written = match name {
                "forwarder.toml" => {
                    // The sections of destinations are read where an org has one.
                    let enabled =
                        "org = \"a\"\nsource.token.file = \"../token\"\nsentinel = {}\ns3 = {}\nfile = {}\n";
                    Written::new(&text).org("acme", enabled)
                }
                _ => Written::new("").org("acme", &text),
            };
            let mistakes = written.mistakes();
            let last = key.rsplit('.').next().unwrap();
            let marked = mistakes.lines().zip(mistakes.lines().skip(1)).any(|(line, below)| {
                line.starts_with(&format!("{name}:3 | {last} = "))
                    && below.contains('^')
                    && ["give ", "a secret is never written"].iter().any(|remedy| below.contains(remedy))
            });
            assert!(marked, "{key} = {wrong}\n{mistakes}");
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
}

#[test]
fn a_configuration_that_is_nowhere_says_where_it_was_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let surroundings = Surroundings { directory: directory.path().to_owned(), variables: vec![] };
    if Path::new(SYSTEM_FILE).exists() {
        return;
    }
    let text = load_in(None, &surroundings, Secrets::Unread).unwrap_err().to_string();
    for part in ["config/forwarder.toml", SYSTEM_FILE, "--config", "config init"] {
        assert!(text.contains(part), "{text}");
    }
    let absent =
        load_in(Some(Path::new("absent.toml")), &surroundings, Secrets::Unread).unwrap_err().to_string();
    assert!(absent.starts_with("absent.toml: cannot be read"), "{absent}");
}

#[cfg(not(feature = "design-mutants"))]
#[test]
fn an_ordinary_build_knows_no_mistakes_on_purpose() {
    let mistakes = acme("").variable("PAF_MUTANT", "no-overlap").mistakes();
    assert!(mistakes.contains("PAF_MUTANT"), "{mistakes}");
}
