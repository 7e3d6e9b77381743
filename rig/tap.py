"""TAP and KTAP into test points.

parse() reads what a program printed (kselftest's TAP), kunit() a kernel log. Both return a
list of Point. A point is what is counted: one "ok" or "not ok" of the outermost level, or
the program itself when it prints none.
"""

import re
from collections import namedtuple

# status: pass, fail, skip; why: the reason of a skip or a failure
Point = namedtuple('Point', 'name status why')

_LINE = re.compile(r'^(?P<indent> *)(?P<not>not )?ok\b(?: +(?P<nr>\d+))?(?: +- +| +)?(?P<rest>.*)$')
_DIRECTIVE = re.compile(r'(?:^|\s)#\s*(?P<word>SKIP|XFAIL|TODO)\b:?\s*(?P<why>.*)$', re.I)
_PLAN = re.compile(r'^1\.\.(?P<n>\d+)(?:\s*#\s*(?:SKIP)?\s*(?P<why>.*))?$')
_STAMP = re.compile(r'^\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?')
_SUBTEST = re.compile(r'^(?P<indent> *)# Subtest: (?P<name>.*)$')

KSFT_SKIP = 4


def _point(match):
    rest, status, why = match['rest'].strip(), 'pass', ''
    if match['not']:
        status = 'fail'
    directive = _DIRECTIVE.search(rest)
    if directive:
        rest, why = rest[:directive.start()].strip(), directive['why'].strip()
        status = 'skip'
    # "ok 3 fixture.test # 1.2 s" and other remarks
    name = rest.split(' # ')[0].strip()
    # Harness: "ok 3 # SKIP reason" names nothing
    return Point(name or why or (match['nr'] or '?'), status, why)


def parse(text, name, status):
    """The points of a program called name that printed text and ended with exit status
    status (an int, or a word when it did not end by itself)."""
    points, plan = [], None
    for line in text.splitlines():
        line = line.rstrip()
        match = _PLAN.match(line)
        if match and plan is None:
            plan = int(match['n'])
            if plan == 0:
                points.append(Point(name, 'skip', match['why'] or 'nothing to do'))
                plan = 1
            continue
        if line.startswith('Bail out!'):
            points.append(Point(name, 'fail', line))
            continue
        match = _LINE.match(line)
        if match and not match['indent']:
            points.append(_point(match))
    failed = any(p.status == 'fail' for p in points)
    if status == 0:
        if not points:
            return [Point(name, 'pass', '')]
        if plan is not None and len(points) != plan and not failed:
            points.append(Point(name, 'fail', f'{len(points)} results, {plan} planned'))
    elif status == KSFT_SKIP and not failed:
        if not points:
            points.append(Point(name, 'skip', _last(text)))
    elif isinstance(status, int):
        if not failed:
            points.append(Point(name, 'fail', f'exit status {status}'))
    else:
        points.append(Point(name, 'fail', status))
    return points


def _last(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else 'no reason given'


def kunit(log):
    """The points of all KUnit suites in a kernel log: (points, the log without times)."""
    lines = [_STAMP.sub('', line.rstrip('\r')) for line in log.splitlines()]
    points, plan, suites, suite, started = [], None, 0, '?', False
    for line in lines:
        if line.startswith('KTAP version'):
            started = True
            continue
        if not started:
            continue
        match = _PLAN.match(line)
        if match and plan is None:
            plan = int(match['n'])
        match = _SUBTEST.match(line)
        if match and len(match['indent']) == 4:
            suite = match['name']
        match = _LINE.match(line)
        if not match:
            continue
        if len(match['indent']) == 4:
            point = _point(match)
            points.append(point._replace(name=f'{suite}.{point.name}'))
        elif not match['indent']:
            suites += 1
            point = _point(match)
            if point.status == 'fail' and not any(
                    p.status == 'fail' and p.name.startswith(point.name + '.') for p in points):
                points.append(point)
    if plan is None:
        points.append(Point('kunit', 'fail', 'no KUnit results in the kernel log'))
    elif suites != plan:
        points.append(Point('kunit', 'fail', f'{suites} suites ended, {plan} planned'))
    return points, '\n'.join(lines)
