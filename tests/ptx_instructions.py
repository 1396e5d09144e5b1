"""Single instructions of PTX in C++, for tests/ptx.py.

Most become a call of the function of their name, `add.s32 %r1, %r2, 4;` being
`_r1 = raw(do_add(of<s32>(_r2), of<s32>(4ll)));`. What is not known is an error, here or for the C++ compiler.
"""

from __future__ import annotations

import re

SPECIAL = {
    "%tid": "emulation::machine.running->thread",
    "%ctaid": "emulation::machine.block",
    "%ntid": "emulation::machine.block_size",
    "%nctaid": "emulation::machine.grid_size",
}
STATEMENT = re.compile(r"(?:@(!?)(%?\w+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)
ROUNDING = {"rn", "rna", "rzi"}


class UnknownPtxError(Exception):
    """PTX that is not known here, named."""


# --- operands ---------------------------------------------------------------------------------------------------------


def split(operands):
    """The operands of an instruction; those in braces or brackets are one."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", operands)]


def several(operand):
    """What stands between braces, or the operand alone."""
    return [part.strip() for part in operand.strip("{} \t").split(",")]


def value(operand):
    """The bits of an operand, in C++: a register, a number, or the address that a name stands for."""
    if operand.split(".")[0] in SPECIAL:
        register, axis = operand.split(".")
        return f"{SPECIAL[register]}.{axis}"
    if operand.startswith("%"):
        return f"_{operand[1:]}"
    if match := re.fullmatch(r"0[fFdD]([0-9A-Fa-f]+)", operand):
        return f"0x{match[1]}ull"
    if re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)U?", operand):
        return f"{operand.rstrip('U')}ll"
    if re.fullmatch(r"\w+", operand):
        return operand
    raise UnknownPtxError(f"operand {operand!r}")


def address(operand):
    """The sum that stands between brackets."""
    return " + ".join(value(part.strip()) for part in operand.strip("[] \t").split("+"))


def array(kind, name, operands):
    return f"{kind} {name}[] = {{{', '.join(f'({kind}){value(part)}' for part in operands)}}};"


def given_back(name, operands):
    return " ".join(f"{value(part)} = {name}[{i}];" for i, part in enumerate(operands))


# --- instructions -----------------------------------------------------------------------------------------------------


def plain(name, target, *operands):
    """do_NAME of the operands, all of the instruction's type."""
    *words, kind = name
    given = ", ".join(f"of<{kind}>({value(operand)})" for operand in operands)
    return f"{value(target)} = raw(do_{'_'.join(words)}({given}));"


def shift(name, target, *operands):
    """As `plain`, but with counts of 32 bits behind one or (bfi) two operands of the type."""
    typed = 2 if name[0] == "bfi" else 1
    kinds = [name[-1]] * typed + ["u32"] * (len(operands) - typed)
    given = ", ".join(f"of<{kind}>({value(operand)})" for kind, operand in zip(kinds, operands, strict=True))
    return f"{value(target)} = raw(do_{name[0]}({given}));"


def multiply_and_add(name, target, left, right, added):
    """mad, whose last operand may be wider."""
    if name[1] != "wide":
        return plain(name, target, left, right, added)
    kind = f"{name[-1][0]}{2 * int(name[-1][1:])}"
    product = f"do_mul_wide(of<{name[-1]}>({value(left)}), of<{name[-1]}>({value(right)}))"
    return f"{value(target)} = raw(do_add({product}, of<{kind}>({value(added)})));"


def select(_name, target, first, second, condition):
    return f"{value(target)} = {value(condition)} ? {value(first)} : {value(second)};"


def move(name, target, source):
    """A register's value, or the parts of one, low ones first."""
    if source.startswith("{"):
        parts = several(source)
        kind = f"b{int(name[-1][1:]) // len(parts)}"
        return f"{{ {array(kind, 'parts', parts)} std::memcpy(&{value(target)}, parts, sizeof parts); }}"
    if not target.startswith("{"):
        return f"{value(target)} = {value(source)};"
    targets = several(target)
    kept = [
        f"std::memcpy(&{value(part)}, (const char*)&whole + sizeof whole / {len(targets)} * {i}, sizeof {value(part)});"
        for i, part in enumerate(targets)
        if part != "_"
    ]
    return f"{{ const auto whole = ({name[-1]}){value(source)}; {' '.join(kept)} }}"


def convert(name, target, *sources):
    if name[0] == "cvta":  # addresses of shared memory alone are others where no memory is named
        shared = f"kAperture {'-' if 'to' in name else '+'} " if "shared" in name else ""
        return f"{value(target)} = {shared}{value(sources[0])};"
    rounding, kinds = ([word for word in name[1:] if (word in ROUNDING) == there] for there in (True, False))
    if kinds[0] in ("bf16x2", "f16x2"):
        high, low = (f"of<{kinds[1]}>({value(source)})" for source in sources)
        return f"{value(target)} = pair<{kinds[0].removesuffix('x2')}>({high}, {low});"
    return f"{value(target)} = raw({'_'.join(['do_cvt', *rounding])}<{kinds[0]}>(of<{kinds[1]}>({value(sources[0])})));"


def space_of(name):
    """The memory that an access is to, how many values it has, of which type."""
    words = [word.removesuffix("::cta") for word in name[1:-1]]
    spaces = [word for word in words if word in ("global", "shared", "param", "local")]
    vectors = [int(word[1:]) for word in words if re.fullmatch(r"v\d", word)]
    if rest := set(words) - set(spaces) - {f"v{vector}" for vector in vectors} - {"wb"}:
        raise UnknownPtxError(f"modifiers {rest}")
    return *(spaces or ["generic"]), *(vectors or [1]), name[-1]


def load(name, target, source):
    space, count, kind = space_of(name)
    targets = enumerate(several(target))
    loads = " ".join(f"{value(part)} = raw(from[{i}]);" for i, part in targets if part != "_")
    return f"{{ const auto* from = {space}<{kind}, {count}>({address(source)}); {loads} }}"


def store(name, target, source):
    space, count, kind = space_of(name)
    stores = " ".join(f"to[{i}] = of<{kind}>({value(part)});" for i, part in enumerate(several(source)))
    return f"{{ auto* to = {space}<{kind}, {count}>({address(target)}); {stores} }}"


def branch(_name, target):
    return f"goto {target.lstrip('$')};"


def exchange(name, target, operand, by, clamp, mask):
    if clamp != "31":
        raise UnknownPtxError(f"{'.'.join(name)} of parts of a warp, {clamp}")
    return f"everybody({value(mask)}); {value(target)} = do_shfl_{name[2]}({value(operand)}, {value(by)});"


def reduce(name, target, operand, mask):
    return f"everybody({value(mask)}); {value(target)} = do_redux_{name[2]}_{name[3]}({value(operand)});"


def barrier(name, number):
    if name[1] == "warp":
        return f"everybody({value(number)}); meet(0u);"
    if number != "0":
        raise UnknownPtxError(f"barrier {number}")
    return "emulation::barrier();"


def copy_ahead(name, *operands):
    """cp.async, and the bulk copies of sm_90."""
    words = ".".join(name)
    if words == "cp.async.commit_group":
        return "commit();"
    if words == "cp.async.wait_group":
        return f"wait({value(operands[0])});"
    if name[-2:] == ["shared", "global"]:
        to, source, count, *own = operands
        return f"do_cp_async({address(to)}, {address(source)}, {value(count)}, {value(own[0] if own else count)});"
    if words != "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes":
        raise UnknownPtxError(words)
    to, source, arrival = operands
    table, places = source.strip("[]").split(",", 1)
    places = ", ".join(f"of<s32>({value(place)})" for place in several(places.strip()))
    return f"do_bulk_copy({address(to)}, {value(table)}, {places}, {address(arrival)});"


def arrival(name, *operands):
    """mbarrier."""
    if name[1] == "init":
        return f"do_mbarrier_init({address(operands[0])}, {value(operands[1])});"
    if name[1:3] == ["arrive", "expect_tx"] and operands[0] == "_":
        return f"do_mbarrier_expect({address(operands[1])}, {value(operands[2])});"
    if name[1:3] == ["try_wait", "parity"]:
        return f"{value(operands[0])} = do_mbarrier_wait({address(operands[1])}, {value(operands[2])});"
    raise UnknownPtxError(".".join(name))


def matrices(name, first, second):
    """ldmatrix and stmatrix."""
    if name[3] != "m8n8" or name[-1] != "b16":
        raise UnknownPtxError(".".join(name))
    count = next(int(word[1:]) for word in name if re.fullmatch(r"x\d", word))
    call = f"do_{name[0]}<{count}, {int('trans' in name)}>"
    if name[0] == "stmatrix":
        return f"{{ {array('b32', 'values', several(second))} {call}({address(first)}, values); }}"
    return f"{{ b32 values[{count}]; {call}(values, {address(second)}); {given_back('values', several(first))} }}"


def multiply(name, sums, left, right, added):
    """mma.sync."""
    shape, kind = name[3], name[7]
    result, left, right, added = map(several, (sums, left, right, added))
    if name[4:6] != ["row", "col"] or shape not in ("m16n8k16", "m16n8k8", "m8n8k4"):
        raise UnknownPtxError(".".join(name))
    if kind == "f64":
        call = f"do_mma_{shape}(sums, {value(left[0])}, {value(right[0])});"
        return f"{{ {array('b64', 'sums', added)} {call} {given_back('sums', result)} }}"
    arrays = " ".join([array("b32", "sums", added), array("b32", "left", left), array("b32", "right", right)])
    call = f"do_mma_{shape}{f'<{kind}>' if shape == 'm16n8k16' else ''}(sums, left, right);"
    return f"{{ {arrays} {call} {given_back('sums', result)} }}"


def multiply_group(name, *operands):
    """wgmma."""
    if name[1] in ("fence", "commit_group", "wait_group"):
        return ""
    sums, left, right, add, *signs = operands
    if signs[:2] != ["1", "1"] or not re.fullmatch(r"m64n\d+k16", name[4]) or name[5] != "f32":
        raise UnknownPtxError(f"{'.'.join(name)} ..., {signs}")
    result = several(sums)
    arrays, factor = array("b32", "sums", result), value(left) if not left.startswith("{") else "left"
    if factor == "left":
        arrays += array("b32", "left", several(left))
    call = f"do_wgmma<{', '.join([name[6], *signs[2:]])}>(sums, {factor}, {value(right)}, {value(add)});"
    return f"{{ {arrays} {call} {given_back('sums', result)} }}"


RULES = {
    "bar": barrier,
    "bfe": shift,
    "bfi": shift,
    "bra": branch,
    "cp": copy_ahead,
    "cvt": convert,
    "cvta": convert,
    "fence": lambda *_: "",
    "ld": load,
    "ldmatrix": matrices,
    "mad": multiply_and_add,
    "mbarrier": arrival,
    "mma": multiply,
    "mov": move,
    "redux": reduce,
    "ret": lambda _name: "return;",
    "selp": select,
    "shfl": exchange,
    "shl": shift,
    "shr": shift,
    "st": store,
    "stmatrix": matrices,
    "wgmma": multiply_group,
}


TOGETHER = {"bar", "ldmatrix", "mma", "redux", "shfl", "stmatrix", "wgmma"}
"""Instructions at which the threads of a warp meet."""


def instruction(text, jumps):
    """One statement in C++; `jumps` has the labels of tables of jumps."""
    negated, condition, name, operands = STATEMENT.fullmatch(text).groups()
    words, given = name.split("."), split(operands)
    if words[0] == "brx":
        cases = " ".join(f"case {i}: goto {label};" for i, label in enumerate(jumps[given[1]]))
        made = f"switch ({value(given[0])}) {{ {cases} default: std::abort(); }}"
    else:
        made = RULES.get(words[0], plain)(words, *given)
    if words[0] in TOGETHER:
        made = f"place = __LINE__; {made}"
    return f"if ({negated}{value(condition)}) {{ {made} }}" if condition else made
