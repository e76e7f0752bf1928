"""What the client and the command line need: the base install, and for `predict` two libraries
more.
"""

import subprocess
import sys

BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
SERVERS = ("sqlalchemy", "alembic", "jwt", "cryptography", "prometheus_client", "grpc_health")
LEARNING = ("sklearn", "scipy", "lightgbm", "onnx", "pyarrow", "pandas", "polars", "psutil")
OURS = ("allotment_learn", "allotment_search", "allotment_embedded", "allotment_dataset")


def run(absent: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(absent=absent) + code],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_client_and_the_commands_load_with_the_base_install() -> None:
    absent = (*SERVERS, *LEARNING, *OURS, "numpy", "onnxruntime")
    done = run(absent, "import allotment.cli.app, allotment.cli.search; allotment.Client")
    assert done.returncode == 0, done.stderr


def test_predict_loads_with_numpy_and_onnxruntime_besides() -> None:
    absent = (*SERVERS, *LEARNING, *OURS)
    code = "import sys; sys.argv[1:] = ['predict', 'no.onnx', 'no.csv', '--out', 'no']\n"
    done = run(absent, code + "from allotment.cli.main import main; sys.exit(main())")
    assert done.returncode == 1
    assert "there is no model no.onnx" in done.stderr


def test_predict_without_a_runtime_says_what_to_install() -> None:
    absent = (*SERVERS, *LEARNING, *OURS, "numpy", "onnxruntime")
    code = "import sys; sys.argv[1:] = ['predict', 'no.onnx', 'no.csv', '--out', 'no']\n"
    done = run(absent, code + "from allotment.cli.main import main; sys.exit(main())")
    assert done.returncode == 1
    assert "allotment[predict]" in done.stderr


def test_up_without_the_servers_libraries_says_what_to_install() -> None:
    code = "import sys; sys.argv[1:] = ['up']\n"
    done = run(SERVERS, code + "from allotment.cli.main import main; sys.exit(main())")
    assert done.returncode == 1
    assert "allotment[local]" in done.stderr


def test_help_and_version_load_no_grpc() -> None:
    code = "import sys; sys.argv[1:] = ['--version']\nfrom allotment.cli.main import main; main()\n"
    done = run((), code + "print('grpc' in sys.modules)")
    assert done.stdout.split()[-1] == "False", done.stdout + done.stderr
