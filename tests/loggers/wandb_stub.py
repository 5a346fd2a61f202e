"""A loopback stand-in for W&B's server: it takes what wandb-core sends, keeps it, and can fail on demand."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

KEY = "0123456789" * 4
"""An API key of the form that W&B accepts."""

Mood = Literal["well", "broken", "hanging"]


class Arrived:
    """What the server knows of one run."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        """Last value of each variable of UpsertBucket: project, groupName, jobType, displayName, tags, config ..."""
        self.lines: dict[str, dict[int, str]] = defaultdict(dict)
        """Lines of each streamed file by their place in it."""
        self.files: dict[str, bytes] = {}
        """Uploaded files by their path."""
        self.exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The history rows, in order."""
        lines = self.lines["wandb-history.jsonl"]
        return [json.loads(lines[place]) for place in sorted(lines)]

    @property
    def summary(self) -> dict[str, Any]:
        """The summary, its last state."""
        lines = self.lines["wandb-summary.json"]
        return json.loads(lines[max(lines)]) if lines else {}

    @property
    def config(self) -> dict[str, Any]:
        """The config, its last state, without W&B's own part."""
        found = json.loads(self.about["config"])
        return {key: item["value"] for key, item in found.items() if key != "_wandb"}


class Server(ThreadingHTTPServer):
    """``with Server() as server``: listens at ``server.url`` and answers according to its ``mood``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.mood: Mood = "well"
        self.runs: dict[str, Arrived] = defaultdict(Arrived)
        self.artifacts: dict[str, dict[str, Any]] = {}
        """Input of CreateArtifact, and ``content``: uploaded bytes by name."""
        self.mood_after: dict[str, Mood] = {}
        """By GraphQL operation: the mood that follows its answer."""
        self.closing = threading.Event()

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *where: Any) -> None:
        """Clients that hang up are none of our business."""

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """``data`` for a GraphQL operation with these variables."""
        own = {"name": "tester", "id": "tester"}
        if operation == "Viewer":
            return {"viewer": {**own, "entity": "tester", "username": "tester", "flags": "{}", "teams": {"edges": []}}}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if operation == "RunResumeStatus":
            return {"model": self._resume(asked["name"])}
        if operation == "UpsertBucket":
            run = self.runs[asked["name"]]
            new = not run.about
            run.about |= {key: value for key, value in asked.items() if value is not None}
            project = {"name": run.about["project"], "entity": own}
            bucket = {"id": asked["name"], "name": asked["name"], "displayName": "", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": new}}
        if operation == "CreateRunFiles":
            files = [
                {"name": name, "uploadUrl": f"{self.url}/put/run/{asked['run']}/{name}"} for name in asked["files"]
            ]
            return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}
        if operation == "CreateArtifact":
            identity = f"artifact{len(self.artifacts)}"
            self.artifacts[identity] = asked["input"] | {"content": {}}
            artifact = {"id": identity, "state": "PENDING", "artifactSequence": {"id": "s", "latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        if operation == "CreateArtifactManifest":
            url = f"{self.url}/put/artifact/{asked['artifactID']}/{asked['name']}"
            file = {"id": "f", "name": asked["name"], "displayName": "", "uploadUrl": url, "uploadHeaders": []}
            return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        if operation == "UpdateArtifactManifest":
            url = f"{self.url}/put/artifact/manifest/manifest"
            file = {"id": "f", "name": "m", "displayName": "", "uploadUrl": url, "uploadHeaders": []}
            return {"updateArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        if operation == "CreateArtifactFiles":
            edges = [
                {
                    "node": {
                        "id": "f",
                        "name": spec["name"],
                        "displayName": "",
                        "uploadUrl": f"{self.url}/put/artifact/{spec['artifactID']}/{spec['name']}",
                        "uploadHeaders": [],
                        "artifact": {"id": spec["artifactID"]},
                    }
                }
                for spec in asked["input"]["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": ""}}}
        return {"project": None}  # what W&B asks beyond that, it can do without

    def _resume(self, name: str) -> dict[str, Any] | None:
        """What a run that goes on is told of itself."""
        if name not in self.runs:
            return None
        run = self.runs[name]
        tail = [json.dumps(row) for row in run.history[-1:]]
        return {
            "bucket": {
                "id": name,
                "name": name,
                "displayName": "",
                "summaryMetrics": json.dumps(run.summary),
                "config": run.about.get("config", "{}"),
                "historyLineCount": len(run.history),
                "eventsLineCount": 0,
                "logLineCount": 0,
                "historyTail": json.dumps(tail),
                "eventsTail": "[]",
                "tags": run.about.get("tags", []),
                "wandbConfig": '{"t": 1}',
            }
        }

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        """Keep the lines of a file_stream request."""
        run = self.runs[name]
        for file, chunk in sent.get("files", {}).items():
            for place, line in enumerate(chunk["content"], start=chunk["offset"]):
                run.lines[file][place] = line
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *what: object) -> None:
        """Silence."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.mood == "hanging":
            self.server.closing.wait()
            return
        if self.server.mood == "broken":
            return self._reply(500, {"error": "the server is broken"})
        parts = self.path.strip("/").split("/")
        reply: dict[str, Any] = {}
        if parts == ["graphql"]:
            asked = json.loads(body)
            operation = asked["query"].partition("{")[0].split("(")[0].split()[-1]
            reply = {"data": self.server.answer(operation, asked.get("variables") or {})}
            self.server.mood = self.server.mood_after.get(operation, self.server.mood)
        elif parts[-1] == "file_stream":
            self.server.stream(parts[-2], json.loads(body))
        elif parts[:2] == ["put", "run"]:
            self.server.runs[parts[2]].files["/".join(parts[3:])] = body
        elif parts[:2] == ["put", "artifact"]:
            self.server.artifacts.setdefault(parts[2], {"content": {}})["content"]["/".join(parts[3:])] = body
        return self._reply(200, reply)

    do_GET = do_PUT = do_POST

    def _reply(self, status: int, reply: dict[str, Any]) -> None:
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
