//! A chain of an App and a file that another program writes.

use super::*;

#[test]
fn a_token_from_a_file_stands_in_while_the_app_gives_none_and_can_be_asked_for_anew() {
    sandboxed(secs(90), || {
        let app = App::new(secs(3600));
        app.demo.github().uninstall(71);
        let file = app.dir.join("sidecar-token");
        fs::write(&file, "ghs_of_the_sidecar\n").unwrap();
        let text = fs::read_to_string(&app.config).unwrap();
        let text = text.replace("['acme-app']", "['acme-app', 'sidecar']");
        let source = format!("[sources.sidecar]\ntype = 'file'\npath = '{}'\n", file.display());
        fs::write(&app.config, text + &source).unwrap();
        let daemon = app.mount();
        let read = || fs::read_to_string(daemon.path("token")).unwrap();
        assert_eq!(read(), "ghs_of_the_sidecar");
        let status = app.tell(&daemon, &["status"]).stdout;
        let since =
            "the token of sidecar is served, since acme-app gives none: the GitHub App is not";
        assert!(status.contains(since) && !status.contains("PLATFORM_URL"), "{status}");
        fs::write(&file, "ghs_the_next").unwrap();
        assert_eq!(read(), "ghs_of_the_sidecar", "it is not watched");
        std::thread::sleep(millis(1100));
        app.tell(&daemon, &["refresh"]);
        eventually("the file's next token", secs(10), || (read() == "ghs_the_next").then_some(()));
        app.demo.github().install(Installation::of(71, "acme", &["web"]));
        std::thread::sleep(millis(1100));
        app.tell(&daemon, &["refresh"]);
        eventually("a token of the App", secs(10), || {
            (app.demo.ledger().verdict(read().as_bytes()) == Verdict::Live).then_some(())
        });
    });
}
