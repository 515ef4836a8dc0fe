"""Runs the PTX that Triton emits for sm_90 on the CPU, and says where it breaks the rules.

A kernel is compiled as it is launched, and its PTX is then run one block after the other, all threads of a
block together in numpy. Everything here follows NVIDIA's *PTX ISA* (section titles are named where a
behaviour hangs on them).

What is found, each as a :class:`~ptx_emulator.faults.Fault` that names the instruction:

- an access outside every tensor, or misaligned; a register, a byte of shared memory or of a new tensor that
  is read before it is written;
- two warps of a block that meet in a byte between two barriers, one of them writing; two blocks that do;
- registers of an unfinished ``wgmma`` that are read or written, operands that change before it is waited
  for, and shared memory that it reads without a proxy fence after ordinary stores;
- copies (``cp.async`` and the copy engine's boxes) whose bytes are read before they are waited for;
- barriers that not all threads reach, and waits that nothing ends.

Asynchronous work takes effect at once (``eager``) or when it is waited for, the latest that the rules allow
(``lazy``). A program whose results differ between the two, or are wrong in one, waits too late or not at all.

From the text up: ``program`` parses, ``table`` and the three modules that fill it (``instructions`` of one
thread, ``warps``, ``asynchronous``) say what each instruction does, ``machine`` runs a block, ``memory``
keeps bytes and who touched them, ``kernel`` runs a grid. ``launch`` puts it under the public functions of
``aicl_fast.kernels``, and ``cases`` compares these with their references.

What this is not: a proof of what a device does. ptxas and the device come after PTX and are not looked at.
Instructions are those that the kernels are compiled to; any other is an error that names it, never skipped.
Times mean nothing. Also skipped:

- one interleaving is run: races are found by comparing accesses between barriers, not by trying orders, and
  lanes of one warp are taken to run together, so what they exchange without a warp barrier is not looked at;
- products are summed in float32, in numpy's order: not Hopper's narrower sums of float8 products, nor any
  device's order; ``approx`` operations are exact to float32, ``ftz`` flushes nothing;
- replicas of one value that several threads write may differ by rounding, since a compiler may contract one
  half of a symmetric sum only; as float32 they have to agree to 1e-5;
- what ``cp.async`` brought may be read by ``wgmma`` without a proxy fence, as libraries do;
- one block of a cluster; no atomic operations; no memory model between blocks other than that they share
  nothing; no caches, occupancy, launch limits or local memory.
"""
