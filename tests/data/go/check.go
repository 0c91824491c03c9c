// Verifies our notes and proofs with golang.org/x/mod/sumdb, unmodified. Input: JSON on stdin.
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type inclusion struct {
	Record string
	Index  int64
	Hashes []string
}

type consistency struct {
	Old, New int
	Hashes   []string
}

type input struct {
	Vkey        string
	Notes       []string
	Inclusion   []inclusion
	Consistency []consistency
}

func must(err error) {
	if err != nil {
		fmt.Println("refused:", err)
		os.Exit(1)
	}
}

func hash(text string) (found tlog.Hash) {
	data, err := base64.StdEncoding.DecodeString(text)
	must(err)
	copy(found[:], data)
	return found
}

func hashes(texts []string) (found []tlog.Hash) {
	for _, text := range texts {
		found = append(found, hash(text))
	}
	return found
}

func main() {
	var given input
	must(json.NewDecoder(os.Stdin).Decode(&given))
	verifier, err := note.NewVerifier(given.Vkey)
	must(err)
	var sizes []int64
	var roots []tlog.Hash
	for _, text := range given.Notes {
		opened, err := note.Open([]byte(text), note.VerifierList(verifier))
		must(err)
		lines := strings.Split(opened.Text, "\n")
		size, err := strconv.ParseInt(lines[1], 10, 64)
		must(err)
		sizes, roots = append(sizes, size), append(roots, hash(lines[2]))
	}
	last := len(sizes) - 1
	for _, one := range given.Inclusion {
		record, err := base64.StdEncoding.DecodeString(one.Record)
		must(err)
		must(tlog.CheckRecord(tlog.RecordProof(hashes(one.Hashes)), sizes[last], roots[last],
			one.Index, tlog.RecordHash(record)))
	}
	for _, one := range given.Consistency {
		must(tlog.CheckTree(tlog.TreeProof(hashes(one.Hashes)), sizes[one.New], roots[one.New],
			sizes[one.Old], roots[one.Old]))
	}
	fmt.Println("verified")
}
