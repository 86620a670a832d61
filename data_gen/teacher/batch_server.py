"""The server's side of the Batch API: files in, a batch worked through in the background, a file out."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from aiohttp import web

from data_gen.teacher.codec import decode, encode

LINES_BETWEEN_PAUSES = 8  # the composer works in slices, so that other requests are answered meanwhile


class BatchDesk:
    """Keeps files and batches in memory. `answer(body)` gives the status and JSON of one request."""

    def __init__(self, answer: Callable[[bytes], tuple[int, dict[str, Any]]]) -> None:
        self._answer = answer
        self._files: dict[str, tuple[dict[str, Any], bytes]] = {}
        self._batches: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}", self._file)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_delete("/v1/files/{id}", self._delete)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._batch)
        app.router.add_post("/v1/batches/{id}/cancel", self._cancel)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        field = form.get("file")
        if not isinstance(field, web.FileField):
            return _missing("file", "a multipart file is needed", status=400)
        return web.json_response(self._store(field.file.read(), field.filename, str(form.get("purpose", ""))))

    def _store(self, content: bytes, filename: str, purpose: str) -> dict[str, Any]:
        name = f"file-{next(self._numbers):06d}"
        about = {
            "id": name,
            "object": "file",
            "bytes": len(content),
            "created_at": 0,
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
        }
        self._files[name] = about, content
        return about

    async def _file(self, request: web.Request) -> web.Response:
        found = self._files.get(request.match_info["id"])
        return web.json_response(found[0]) if found else _missing("file", request.match_info["id"])

    async def _content(self, request: web.Request) -> web.Response:
        found = self._files.get(request.match_info["id"])
        if not found:
            return _missing("file", request.match_info["id"])
        return web.Response(body=found[1], content_type="application/octet-stream")

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if self._files.pop(name, None) is None:
            return _missing("file", name)
        return web.json_response({"id": name, "object": "file", "deleted": True})

    async def _create(self, request: web.Request) -> web.Response:
        body = decode(await request.read())
        source = body.get("input_file_id")
        if source not in self._files:
            return _missing("input_file_id", str(source), status=400)
        name = f"batch_{next(self._numbers):06d}"
        batch = {
            "id": name,
            "object": "batch",
            "endpoint": body.get("endpoint", "/v1/chat/completions"),
            "errors": None,
            "input_file_id": source,
            "completion_window": body.get("completion_window", "24h"),
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": 0,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": body.get("metadata"),
        }
        self._batches[name] = batch
        task = asyncio.create_task(self._work(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return web.json_response(batch)

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": list(self._batches.values()), "has_more": False})

    async def _batch(self, request: web.Request) -> web.Response:
        found = self._batches.get(request.match_info["id"])
        return web.json_response(found) if found else _missing("batch", request.match_info["id"])

    async def _cancel(self, request: web.Request) -> web.Response:
        found = self._batches.get(request.match_info["id"])
        if found is None:
            return _missing("batch", request.match_info["id"])
        if found["status"] not in ("completed", "failed"):
            found["status"] = "cancelled"
        return web.json_response(found)

    async def _work(self, batch: dict[str, Any]) -> None:
        """Answer every line; lines that fail go to the error file, as OpenAI does it."""
        lines = self._files[batch["input_file_id"]][1].splitlines()
        counts = batch["request_counts"]
        counts["total"] = len(lines)
        try:
            items = [decode(line) for line in lines]
            if not items or not all("custom_id" in item and "body" in item for item in items):
                raise ValueError("each line needs custom_id and body")
        except ValueError as error:
            batch["status"] = "failed"
            batch["errors"] = {"object": "list", "data": [{"code": "invalid_json_line", "message": str(error)}]}
            return
        batch["status"] = "in_progress"
        good: list[bytes] = []
        bad: list[bytes] = []
        for index, item in enumerate(items):
            if index % LINES_BETWEEN_PAUSES == 0:
                await asyncio.sleep(0)
                if batch["status"] == "cancelled":
                    break
            status, value = self._answer(encode(item["body"]))
            counts["completed" if status == 200 else "failed"] += 1
            line = {
                "id": f"{batch['id']}_{index}",
                "custom_id": item["custom_id"],
                "response": {"status_code": status, "request_id": f"{batch['id']}_{index}", "body": value},
                "error": None,
            }
            (good if status == 200 else bad).append(encode(line))
        if good:
            batch["output_file_id"] = self._store(b"\n".join(good) + b"\n", "output.jsonl", "batch_output")["id"]
        if bad:
            batch["error_file_id"] = self._store(b"\n".join(bad) + b"\n", "errors.jsonl", "batch_output")["id"]
        if batch["status"] == "in_progress":
            batch["status"] = "completed"


def _missing(what: str, name: str, status: int = 404) -> web.Response:
    error = {"message": f"No such {what}: {name}", "type": "invalid_request_error", "param": None, "code": None}
    return web.json_response({"error": error}, status=status)
