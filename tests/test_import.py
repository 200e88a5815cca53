"""`import regard` runs nothing, and the core needs torch and numpy alone; seen in fresh processes."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

OPTIONAL = [
    "altair", "click", "gguf", "hypothesis", "jinja2", "onnx", "rich", "safetensors", "tqdm", "transformers",
    "vl_convert",
]  # fmt: skip
CORE = [
    "regard.errors", "regard.core", "regard.masks", "regard.edits", "regard.ops", "regard.caches", "regard.papers",
    "regard.measured", "regard.mechanisms", "regard.layers", "regard.testing",
]  # fmt: skip

BLOCK = f"""
import sys

class Absent:
    asked = set()
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {OPTIONAL!r}:
            self.asked.add(top)
            raise ModuleNotFoundError(f"{{top}} is blocked", name=top)

sys.meta_path.insert(0, Absent())
"""

WALK = f"""
import importlib, pkgutil
seen = []
for room in {CORE!r}:
    module = importlib.import_module(room)
    seen.append(room)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), room + "."):
        importlib.import_module(found.name)
        seen.append(found.name)
"""

WATCH = """
import os, sys, threading

deeds = []

def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if flags and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            deeds.append(f"opened {path} for writing")
    elif event in ("subprocess.Popen", "socket.connect", "os.mkdir", "os.rename", "os.remove"):
        deeds.append(event)

def start(thread, begin=threading.Thread.start):
    deeds.append("started a thread")
    begin(thread)

threading.Thread.start = start
sys.addaudithook(watch)
"""

STATE = """
def state():
    random = torch.get_rng_state().tolist()
    return torch.get_num_threads(), torch.get_default_dtype(), random, os.environ.copy(), threading.active_count()
"""


def fresh(script: str) -> subprocess.CompletedProcess[str]:
    # -B: a bytecode cache is written by the interpreter, not by the package.
    return subprocess.run([sys.executable, "-B", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)


def answer(script: str) -> dict:
    done = fresh(script)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_front_door_opens_without_any_optional_package() -> None:
    said = answer(BLOCK + "import json, regard\nprint(json.dumps({'version': regard.__version__}))")
    assert said["version"]


def test_every_module_of_the_core_imports_without_any_optional_package() -> None:
    said = answer("import json\n" + BLOCK + WALK + "print(json.dumps({'seen': seen}))")
    files = {path for room in CORE for path in (ROOT / room.replace(".", "/")).rglob("*.py")}
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files}
    assert modules <= set(said["seen"])


def test_the_blocker_blocks() -> None:
    done = fresh(BLOCK + "import click")
    assert done.returncode == 1
    assert "click is blocked" in done.stderr


def test_importing_runs_nothing() -> None:
    # What importing torch itself does is torch's: the watch starts after it.
    script = "import json, torch\n" + WATCH + STATE + "before = state()\nimport regard\n" + WALK
    done = fresh(script + "print(json.dumps({'deeds': deeds, 'same': state() == before}))")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(done.stdout) == {"deeds": [], "same": True}


def test_the_watch_sees() -> None:
    doing = """
import json, tempfile
folder = tempfile.TemporaryDirectory()
open(folder.name + "/a", "w").close()
thread = threading.Thread(target=len, args=("",))
thread.start()
thread.join()
print(json.dumps({"deeds": deeds}))
"""
    deeds = answer(WATCH + doing)["deeds"]
    assert any(deed.startswith("opened") for deed in deeds)
    assert {"os.mkdir", "started a thread"} <= set(deeds)


def test_the_front_door_brings_no_compiler() -> None:
    script = "import json, sys, torch\nbefore = set(sys.modules)\nimport regard\n"
    more = answer(script + "print(json.dumps({'more': sorted(set(sys.modules) - before)}))")["more"]
    assert "regard" in more
    assert [name for name in more if name.startswith(("torch._dynamo", "torch._inductor", "triton"))] == []


def test_the_front_door_opens_quickly() -> None:
    script = "import json, time, torch\nstart = time.perf_counter()\nimport regard\n"
    more = answer(script + "print(json.dumps({'seconds': time.perf_counter() - start}))")
    assert more["seconds"] < 0.3


def test_a_name_is_the_same_by_every_door() -> None:
    script = """
import json, regard
first = (regard.apply, regard.attend, regard.merge, regard.create)
from regard.hf import apply
from regard.ops import attend, merge
from regard.layers import create
same = [one is other for one, other in zip(first, (apply, attend, merge, create), strict=True)]
print(json.dumps({"same": same}))
"""
    assert answer(script)["same"] == [True] * 4
