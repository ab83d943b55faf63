"""The part of a lock that one version of Python takes. usage: lock_of.py 3.13 <requirements.lock"""

import re
import sys

from pip._vendor.packaging.markers import Marker

version = sys.argv[1]
wanted = {"python_version": version, "python_full_version": f"{version}.0"}
is_taken = True
for line in sys.stdin:
    if found := re.match(r"(?P<name>[^\s#;]+)(?: ; (?P<marker>[^\\]+))?(?P<rest>.*)", line):
        is_taken = found["marker"] is None or Marker(found["marker"].strip()).evaluate(wanted)
        line = f"{found['name']} {found['rest'].strip()}\n"
    if is_taken:
        sys.stdout.write(line)
