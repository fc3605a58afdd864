// Checks a log that lies in a folder, in the layout of C2SP tlog-tiles, with what Go checks its own module log with:
// golang.org/x/mod/sumdb/note and sumdb/tlog.
//
//	check FOLDER VKEY CLAIMS
//
// CLAIMS is a JSON file: class claims. Prints how many claims hold; ends with 1 at the first that does not.
package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

// claims are proofs to check. Hashes are in base64, as tlog.Hash is in JSON.
type claims struct {
	Inclusion []struct {
		Index, Size int64
		Leaf        string
		Path        tlog.RecordProof
		Root        tlog.Hash
	}
	Consistency []struct {
		Old, New         int64
		OldRoot, NewRoot tlog.Hash
		Path             tlog.TreeProof
	}
}

// folder reads tiles; C2SP's paths lack the height, which Go's begin with.
type folder string

func (f folder) Height() int                     { return height }
func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}
func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		data, err := f.read(tile)
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func (f folder) read(tile tlog.Tile) ([]byte, error) {
	path := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
	path = strings.Replace(path, "data/", "entries/", 1)
	return os.ReadFile(filepath.Join(string(f), "tile", filepath.FromSlash(path)))
}

// open verifies the checkpoint's signature and takes it apart.
func open(f folder, vkey string) (tree tlog.Tree, err error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tree, err
	}
	data, err := os.ReadFile(filepath.Join(string(f), "checkpoint"))
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(data, note.VerifierList(verifier))
	if err != nil {
		return tree, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tree, errors.New("not a checkpoint of three lines")
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, err
	}
	tree.Hash, err = tlog.ParseHash(lines[2])
	return tree, err
}

// entries takes an entry bundle apart.
func entries(data []byte) (all [][]byte, err error) {
	for len(data) > 0 {
		if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
			return nil, errors.New("an entry bundle is cut off")
		}
		size := int(binary.BigEndian.Uint16(data))
		all = append(all, data[2:2+size])
		data = data[2+size:]
	}
	return all, nil
}

// rebuild computes the tree from the entry bundles alone, and compares all its tiles with those of the folder.
func rebuild(f folder, tree tlog.Tree) error {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var hashes []tlog.Hash
		for _, index := range indexes {
			hashes = append(hashes, stored[index])
		}
		return hashes, nil
	})
	for n := int64(0); n < tree.N; {
		tile := tlog.Tile{H: height, L: -1, N: n >> height, W: 1 << height}
		if tree.N-n < int64(tile.W) {
			tile.W = int(tree.N - n)
		}
		data, err := f.read(tile)
		if err != nil {
			return err
		}
		bundle, err := entries(data)
		if err != nil || len(bundle) != tile.W {
			return fmt.Errorf("%s holds %d entries: %v", tile.Path(), len(bundle), err)
		}
		for _, entry := range bundle {
			hashes, err := tlog.StoredHashes(n, entry, reader)
			if err != nil {
				return err
			}
			stored = append(stored, hashes...)
			n++
		}
	}
	root, err := tlog.TreeHash(tree.N, reader)
	if err != nil || root != tree.Hash {
		return fmt.Errorf("the entries' root is %v, the checkpoint's %v: %v", root, tree.Hash, err)
	}
	for level, width := 0, tree.N; width > 0; level, width = level+1, width>>height {
		for n := int64(0); n<<height < width; n++ {
			tile := tlog.Tile{H: height, L: level, N: n, W: 1 << height}
			if left := width - n<<height; left < int64(tile.W) {
				tile.W = int(left)
			}
			wanted, err := tlog.ReadTileData(tile, reader)
			if err != nil {
				return err
			}
			if found, err := f.read(tile); err != nil || string(found) != string(wanted) {
				return fmt.Errorf("%s is not the entries': %v", tile.Path(), err)
			}
		}
	}
	return nil
}

// check returns how many claims hold.
func check(f folder, vkey, path string) (held int, err error) {
	tree, err := open(f, vkey)
	if err != nil {
		return 0, err
	}
	if err := rebuild(f, tree); err != nil {
		return 0, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var said claims
	if err := json.Unmarshal(data, &said); err != nil {
		return 0, err
	}
	reader := tlog.TileHashReader(tree, f)
	for _, claim := range said.Inclusion {
		if err := tlog.CheckRecord(claim.Path, claim.Size, claim.Root, claim.Index, tlog.RecordHash([]byte(claim.Leaf))); err != nil {
			return held, fmt.Errorf("leaf %d of %d: %v", claim.Index, claim.Size, err)
		}
		proof, err := tlog.ProveRecord(claim.Size, claim.Index, reader)
		if err != nil || fmt.Sprint(proof) != fmt.Sprint(claim.Path) {
			return held, fmt.Errorf("the proof of leaf %d of %d is another one: %v", claim.Index, claim.Size, err)
		}
		held++
	}
	for _, claim := range said.Consistency {
		if err := tlog.CheckTree(claim.Path, claim.New, claim.NewRoot, claim.Old, claim.OldRoot); err != nil {
			return held, fmt.Errorf("from %d to %d leaves: %v", claim.Old, claim.New, err)
		}
		proof, err := tlog.ProveTree(claim.New, claim.Old, reader)
		if err != nil || fmt.Sprint(proof) != fmt.Sprint(claim.Path) {
			return held, fmt.Errorf("the proof from %d to %d leaves is another one: %v", claim.Old, claim.New, err)
		}
		held++
	}
	return held, nil
}

func main() {
	held, err := check(folder(os.Args[1]), os.Args[2], os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(held)
}
