"""What is said about an application that cannot be loaded."""

import os
import shlex
import subprocess
import sys
import tempfile

from harness import TestCase

FINE = """
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"fine"})
"""


class Loading(TestCase):
    def failure(self, source: str = "", **kwargs) -> str:
        worker = self.start(source, **kwargs)
        message = worker.wait_for("start_failed")[1]
        self.assertEqual(worker.exit_code(), 3)
        # The supervisor shows the message; the worker does not show it a second time.
        self.assertEqual(worker.read_log(), "")
        return message

    def served(self, source: str, target: str, **kwargs) -> None:
        self.assertEqual(self.serve(source, target=target, **kwargs).request().body, b"fine")

    def test_nested_attributes_and_factories(self):
        self.served(FINE + "\n    class Site:\n        main = staticmethod(app)\n", "app:Site.main")
        self.served(FINE + "\n    def make():\n        return app\n", "app:make()")
        self.served("", "site_package.web:app", files={"site_package/web.py": FINE})

    def test_classes_and_objects_are_applications_too(self):
        self.served(
            FINE
            + """
    class Callable:
        async def __call__(self, scope, receive, send):
            await app(scope, receive, send)

    made = Callable()

    class PerRequest:
        def __init__(self, scope, receive, send):
            self.arguments = scope, receive, send
        def __await__(self):
            return app(*self.arguments).__await__()
""",
            "app:made",
        )

    def test_an_application_that_returns_an_awaitable_object(self):
        self.served(
            FINE
            + """
    class PerRequest:
        def __init__(self, scope, receive, send):
            self.arguments = scope, receive, send
        def __await__(self):
            return app(*self.arguments).__await__()
""",
            "app:PerRequest",
        )

    def test_a_missing_module(self):
        message = self.failure(target="ap:app")
        self.assertIn("there is no module 'ap'", message)
        self.assertIn("did you mean 'app'?", message)
        self.assertNotIn("Traceback", message)

    def test_a_missing_submodule(self):
        message = self.failure(target="pkg.wbe:app", files={"pkg/__init__.py": "", "pkg/web.py": FINE})
        self.assertIn("there is no module 'pkg.wbe'", message)
        self.assertIn("did you mean 'web'?", message)

    def test_a_missing_module_inside_of_the_application(self):
        message = self.failure("import fastapi_of_nobody\n")
        self.assertIn("ModuleNotFoundError: No module named 'fastapi_of_nobody'", message)
        self.assertIn("import fastapi_of_nobody", message)
        self.assertIn("Traceback", message)
        self.assertNotIn("there is no module", message)
        for ours in ("_load.py", "_worker.py", "importlib"):
            self.assertNotIn(ours, message)

    def test_an_application_that_imports_its_own_name_wrongly(self):
        # The name that is missing is the one asked for, but the module was found.
        message = self.failure("import app.models\n")
        self.assertIn("import app.models", message)
        self.assertIn("Traceback", message)

    def test_an_exception_on_import(self):
        message = self.failure("def f():\n    raise ValueError('no key')\n\nf()\n")
        self.assertEqual(message.count("Traceback"), 1)
        self.assertIn("ValueError: no key", message)
        self.assertIn("line 4", message)
        self.assertNotIn("_load.py", message)

    def test_a_syntax_error(self):
        message = self.failure("def app(:\n")
        self.assertIn("SyntaxError", message)
        self.assertIn("app.py", message)

    def test_an_import_that_exits(self):
        self.assertIn("SystemExit", self.failure("import sys\nsys.exit(5)\n"))

    def test_a_missing_attribute(self):
        message = self.failure("import os\nasync def application(scope, receive, send): pass\n", target="app:aplication")
        self.assertIn("module 'app' has no attribute 'aplication'", message)
        self.assertIn("did you mean 'application'?", message)

    def test_a_missing_attribute_lists_what_there_is(self):
        message = self.failure("import os\nfirst = 1\nsecond = 2\n", target="app:zzzz")
        self.assertIn("it has: first, second", message)

    def test_a_missing_nested_attribute(self):
        message = self.failure("class Site:\n    main = 1\n", target="app:Site.mian")
        self.assertIn("'app:Site' (type) has no attribute 'mian'; did you mean 'main'?", message)

    def test_things_that_are_not_applications(self):
        for source, expected in {
            "app = 7": "an object of type 'int', not an ASGI application: it cannot be called",
            "import json as app": "a module, not an ASGI application",
            "def app(environ, start_response): return []": "WSGI",
            "class Flask:\n    def __call__(self, environ, start_response): return []\napp = Flask()": "WSGI",
            "class app:\n    def __init__(self, scope): pass\n    async def __call__(self, receive, send): pass": "ASGI 2",
            "def app(): return None": "'app:app()'",
            "async def app(a, b, c, d): pass": "takes (scope, receive, send)",
        }.items():
            with self.subTest(source):
                self.assertIn(expected, self.failure(source))

    def test_factories_that_make_nothing(self):
        for source, expected in {
            "def make(x): return None": "without arguments",
            "def make(): raise KeyError('SECRET')": "KeyError: 'SECRET'",
            "async def make(): return None": "a factory is a plain function",
            "def make(): return 5": "it cannot be called",
            "make = 5": "which cannot be called",
        }.items():
            with self.subTest(source):
                self.assertIn(expected, self.failure(source, target="app:make()"))

    def test_the_loop_is_there_during_the_import(self):
        self.served(
            "import asyncio\nloop = asyncio.get_event_loop_policy().get_event_loop()\n"
            "event = asyncio.Event()\n" + __import__("textwrap").dedent(FINE),
            "app:app",
        )


class Extension(TestCase):
    """What is said when the extension module cannot be loaded."""

    def complaint(self, *arguments: str, extension: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "POUNCE_EXTENSION": extension, "POUNCE_CONTROL_FD": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        return done.stderr

    def check(self, complaint: str, reason: str) -> None:
        self.assertIn("pounce's extension module", complaint)
        self.assertIn(reason, complaint)
        python = shlex.quote(sys.executable)
        self.assertIn(f"PYO3_PYTHON={python} cargo build --release", complaint)
        self.assertIn(f"{python} -m pip install .", complaint)

    def test_an_extension_module_that_cannot_be_loaded_is_told_with_what_to_do(self):
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(b"pounce-built-for=3.9;")
            file.flush()
            for extension in (file.name, "/nowhere/module.so"):
                with self.subTest(extension):
                    complaint = self.complaint("-c", "from pounce import _extension; _extension.load()", extension=extension)
                    self.check(complaint, f"ImportError: pounce's extension module {extension}")

    def test_a_package_without_its_extension_module_is_told_with_what_to_do(self):
        complaint = self.complaint("-c", "from pounce import _extension; _extension.load()", extension="")
        self.check(complaint, "ImportError: pounce's extension module")

    def test_a_worker_says_so_in_one_message_without_a_traceback(self):
        complaint = self.complaint("-m", "pounce._worker", extension="/nowhere/module.so")
        self.check(complaint, "/nowhere/module.so")
        self.assertNotIn("Traceback", complaint)
